// Package conformance builds the Gateway API's own conformance suite, unmodified, as one test program.
//
// Everything it tests, and every flag of TestConformance, is the suite's: see sigs.k8s.io/gateway-api/conformance.
package conformance

import (
	"encoding/json"
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	conformance "sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/consts"
	"sigs.k8s.io/gateway-api/pkg/features"
)

func TestConformance(t *testing.T) { conformance.RunConformance(t) }

type test struct {
	Name        string                 `json:"name"`
	Description string                 `json:"description"`
	Features    []features.FeatureName `json:"features"`
	Provisional bool                   `json:"provisional"`
}

type profile struct {
	Core     []features.FeatureName `json:"core"`
	Extended []features.FeatureName `json:"extended"`
}

// TestCatalogue writes what the suite holds as JSON to the file that CATALOGUE names: a report counts what has run, and
// whoever reads it has to know what should have run. Base is the text of the manifests that every run starts with.
func TestCatalogue(t *testing.T) {
	path := os.Getenv("CATALOGUE")
	if path == "" {
		t.Skip("CATALOGUE names no file")
	}
	base, err := conformance.Manifests.ReadFile("base/manifests.yaml")
	if err != nil {
		t.Fatal(err)
	}
	catalogue := struct {
		Version  string                          `json:"version"`
		Tests    []test                          `json:"tests"`
		Profiles map[string]profile              `json:"profiles"`
		Channels map[features.FeatureName]string `json:"channels"`
		Base     string                          `json:"base"`
	}{Version: consts.BundleVersion, Profiles: map[string]profile{}, Channels: map[features.FeatureName]string{}, Base: string(base)}
	for _, each := range tests.ConformanceTests {
		catalogue.Tests = append(catalogue.Tests, test{each.ShortName, each.Description, each.Features, each.Provisional})
	}
	for _, each := range []suite.ConformanceProfile{
		suite.GatewayHTTPConformanceProfile, suite.GatewayGRPCConformanceProfile, suite.GatewayTLSConformanceProfile,
		suite.GatewayTCPConformanceProfile, suite.GatewayUDPConformanceProfile,
	} {
		catalogue.Profiles[string(each.Name)] = profile{sets.List(each.CoreFeatures), sets.List(each.ExtendedFeatures)}
	}
	for _, each := range features.AllFeatures.UnsortedList() {
		catalogue.Channels[each.Name] = string(each.Channel)
	}
	text, err := json.MarshalIndent(catalogue, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}
