// Uploads a file with tus-js-client and says what it hears: node tus.cjs ENDPOINT FILE PROTOCOL URLS
const fs = require("fs");
const tus = require("tus-js-client");

const [, , endpoint, path, protocol, urls] = process.argv;
const upload = new tus.Upload(fs.createReadStream(path), {
  endpoint,
  protocol,
  uploadSize: fs.statSync(path).size,
  chunkSize: Infinity,
  urlStorage: new tus.FileUrlStorage(urls),
  retryDelays: [0, 100, 200, 400, 800, 1600, 3200, 6400],
  metadata: { filename: "film.mp4", filetype: "video/mp4" },
  onAfterResponse: (request, response) =>
    console.log(request.getMethod(), request.getHeader("Upload-Offset") ?? "-", response.getStatus()),
  onProgress: (sent, total) => sent === total && console.log("progress", "100 %"),
  onError: (error) => {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess: () => console.log("done", upload.url),
});
upload.findPreviousUploads().then((previous) => {
  if (previous.length > 0) {
    upload.resumeFromPreviousUpload(previous[0]);
  }
  upload.start();
});
