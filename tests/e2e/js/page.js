// Uploads /film.mp4 of its own origin to the URL in ?to=, with what ?by= names, and reports what it sees to /report.
import Uppy from "@uppy/core";
import Tus from "@uppy/tus";

const asked = new URLSearchParams(location.search);
const report = (line) => fetch("/report", { method: "POST", body: String(line) });

async function film() {
  return (await fetch("/film.mp4")).blob();
}

async function withUppy() {
  const uppy = new Uppy({ autoProceed: false });
  uppy.use(Tus, { endpoint: asked.get("to"), retryDelays: [100, 200, 400, 800, 1600, 3200, 6400] });
  uppy.on("upload-retry", (id) => report(`retry ${id}`));
  uppy.on("progress", (percent) => percent === 100 && report("progress 100 %"));
  const blob = await film();
  uppy.addFile({ name: "film.mp4", type: "video/mp4", data: new File([blob], "film.mp4", { type: "video/mp4" }) });
  const result = await uppy.upload();
  if (result.failed.length > 0) {
    throw new Error(result.failed.map((file) => file.error).join());
  }
  return `done ${result.successful[0].uploadURL}`;
}

async function withFetch() {
  const headers = { "Content-Type": "video/mp4", "X-Session-Token": asked.get("token") };
  const answer = await fetch(asked.get("to"), { method: "PUT", body: await film(), headers });
  const seen = ["X-Session-Token", "Upload-Offset", "ETag"].map((name) => answer.headers.get(name));
  return `done ${answer.status} ${seen.join(" ")}`;
}

(asked.get("by") === "uppy" ? withUppy() : withFetch()).then(report, (error) => report(`failed ${error}`));
