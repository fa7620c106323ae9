{{/* Prefix of every object's name: the release's name, which is usually `nexus`. */}}
{{- define "nexus.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "nexus.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Labels of one component. Call with (dict "root" $ "component" "gateway"). */}}
{{- define "nexus.selector" -}}
app.kubernetes.io/name: nexus
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "nexus.labels" -}}
{{ include "nexus.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: nexus
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{/* Consul's address, or an end with the remedy. */}}
{{- define "nexus.consulUrl" -}}
{{- required "\n\nconsul.url is empty: Nexus carries its configuration and finds endpoints through Consul.\nSet the address of Consul's HTTP API, for example:\n  --set consul.url=http://consul-server.consul:8500\nNo Consul yet? https://developer.hashicorp.com/consul/docs/k8s shows how to install one.\n" .Values.consul.url -}}
{{- end -}}

{{- define "nexus.consulEnv" -}}
- name: NEXUS_CONSUL_URL
  value: {{ include "nexus.consulUrl" . | quote }}
- name: NEXUS_CONSUL_PREFIX
  value: {{ .Values.consul.prefix | quote }}
{{- with .Values.consul.tokenSecret }}
{{- if .name }}
- name: NEXUS_CONSUL_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- with .Values.consul.gatewayTokenSecret }}
{{- if .name }}
- name: NEXUS_GATEWAY_CONSUL_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- with .Values.otlp.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
- name: NEXUS_LOG_LEVEL
  value: {{ .Values.logLevel }}
{{- end -}}

{{/* "true" when an object of the Gateway API is to be created. Call with (dict "root" $ "when" "auto"). */}}
{{- define "nexus.gatewayApi" -}}
{{- if eq .when "always" -}}true
{{- else if and (eq .when "auto") (.root.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1/GatewayClass") -}}true
{{- end -}}
{{- end -}}

{{- define "nexus.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "nexus.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
