// Loads React and GraphiQL one after the other, then opens the editor on this very address.
"use strict";
const assets = @ASSETS@;
const here = location.pathname.replace(/\/+$/, "");
const place = (file) => (assets.base || here + "/assets/") + file;

function load(tag, asset) {
  return new Promise((resolve, reject) => {
    const element = document.createElement(tag);
    if (tag === "script") element.src = place(asset.file);
    else { element.rel = "stylesheet"; element.href = place(asset.file); }
    element.integrity = asset.integrity;
    element.crossOrigin = "anonymous";
    element.onload = resolve;
    element.onerror = () => reject(new Error(place(asset.file)));
    document.head.append(element);
  });
}

async function start() {
  try {
    for (const style of assets.styles) await load("link", style);
    for (const script of assets.scripts) await load("script", script);
  } catch (error) {
    document.getElementById("message").textContent =
      "GraphiQL did not load: " + error.message + " is not reachable, or is not the pinned version. " +
      "Set NEXUS_GRAPHIQL_ASSETS to a directory or a URL that has it; queries can still be sent to this address.";
    return;
  }
  const given = new URLSearchParams(location.search);
  ReactDOM.createRoot(document.getElementById("graphiql")).render(
    React.createElement(GraphiQL, {
      fetcher: GraphiQL.createFetcher({ url: here || "/" }),
      query: given.get("query") || undefined,
      variables: given.get("variables") || undefined,
      defaultQuery: assets.query,
    }),
  );
}
start();
