// node fetch.js URL FILE
const https = require("https");
const fs = require("fs");
const [url, file] = process.argv.slice(2);
https.get(url, (response) => {
    if (response.statusCode !== 200) throw new Error(`${url}: ${response.statusCode}`);
    response.pipe(fs.createWriteStream(file));
});
