// Four workers of a Node cluster that load the same data: node cluster.js MEGABYTES PORT
// Half of the data are objects, half are buffers. GET /NUMBER answers with a row and a checksum.
const cluster = require('node:cluster');
const crypto = require('node:crypto');
const http = require('node:http');

const [megabytes, port] = process.argv.slice(2).map(Number);

function load() {
  const rows = [], buffers = [];
  for (let i = 0; i < megabytes * 4000; i++)
    rows.push({id: i, name: 'row ' + i, at: i * 0.5, tags: ['tag ' + (i % 1000)]});
  for (let i = 0; i < megabytes * 4; i++) {
    const key = Buffer.alloc(16, 'key'), start = Buffer.alloc(16);
    start.writeUInt32BE(i);
    const stream = crypto.createCipheriv('aes-128-ctr', key, start);
    buffers.push(stream.update(Buffer.alloc(1 << 17)));
  }
  return [rows, buffers];
}

if (cluster.isPrimary) {
  for (let i = 0; i < 4; i++) cluster.fork();
} else {
  const [rows, buffers] = load();
  if (globalThis.gc) globalThis.gc();
  http.createServer((request, response) => {
    const number = Number(request.url.slice(1));
    let sum = 0;
    for (let i = 0; i < 2000; i++) sum += rows[(number * 7919 + i * 104729) % rows.length].at;
    const hash = crypto.createHash('md5').update(buffers[number % buffers.length]).digest('hex');
    response.end(`${sum} ${hash}`);
  }).listen(port, '127.0.0.1');
}
