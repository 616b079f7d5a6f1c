// Opens sockets over HTTP/2 (RFC 8441) with Node's own http2 module, each with messages of several sizes, and makes
// ordinary requests on the same connection.
//
//	http2.js URL
const http2 = require('http2');
const crypto = require('crypto');

const count = 20;
const sizes = [0, 125, 65535, 300000];
const session = http2.connect(process.argv[2], { rejectUnauthorized: false });
let finished = 0;

// frame builds a frame of the client's.
function frame(opcode, payload) {
  const n = payload.length;
  const head = n < 126 ? Buffer.from([0x80 | opcode, 0x80 | n])
    : n < 65536 ? Buffer.from([0x80 | opcode, 0x80 | 126, n >> 8, n & 255])
    : Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | 127]), (() => { const b = Buffer.alloc(8); b.writeBigUInt64BE(BigInt(n)); return b; })()]);
  const mask = crypto.randomBytes(4);
  const masked = Buffer.from(payload);
  for (let i = 0; i < n; i++) masked[i] ^= mask[i & 3];
  return Buffer.concat([head, mask, masked]);
}

// parse takes one frame of the server's off the front of b.
function parse(b) {
  if (b.length < 2) return null;
  let n = b[1], at = 2;
  if (n === 126) { if (b.length < 4) return null; n = b.readUInt16BE(2); at = 4; }
  if (n === 127) { if (b.length < 10) return null; n = Number(b.readBigUInt64BE(2)); at = 10; }
  if (b.length < at + n) return null;
  return { opcode: b[0] & 15, payload: b.subarray(at, at + n), rest: b.subarray(at + n) };
}

function done() {
  if (++finished === 2 * count) {
    console.log(`${count} sockets, ${count} requests, one connection`);
    session.close();
  }
}

function socket() {
  const stream = session.request({
    ':method': 'CONNECT', ':protocol': 'websocket', ':scheme': 'https', ':path': '/ws', ':authority': new URL(process.argv[2]).host,
    'sec-websocket-version': '13', 'sec-websocket-protocol': 'chat.v1', origin: process.argv[2],
  });
  let input = Buffer.alloc(0), next = 0;
  const send = () => next === sizes.length
    ? stream.write(frame(8, Buffer.concat([Buffer.from([0x0f, 0xa1]), Buffer.from('bye')])))
    : stream.write(frame(2, Buffer.alloc(sizes[next], 7)));
  stream.on('response', (headers) => {
    if (headers[':status'] !== 200 || headers['sec-websocket-protocol'] !== 'chat.v1') throw new Error(JSON.stringify(headers));
    send();
  });
  stream.on('data', (data) => {
    input = Buffer.concat([input, data]);
    for (let f; (f = parse(input)); ) {
      input = f.rest;
      if (f.opcode === 8) {
        if (f.payload.readUInt16BE(0) !== 4001) throw new Error('closed with ' + f.payload.readUInt16BE(0));
        continue;
      }
      if (f.opcode !== 2 || !f.payload.equals(Buffer.alloc(sizes[next], 7))) throw new Error('the echo differs');
      next++;
      send();
    }
  });
  stream.on('end', () => { stream.end(); done(); });
}

function request() {
  const stream = session.request({ ':path': '/ordinary' });
  let body = '';
  stream.on('data', (data) => { body += data; });
  stream.on('end', () => {
    if (body !== 'ordinary') throw new Error(body);
    done();
  });
}

session.on('remoteSettings', (settings) => {
  if (!settings.enableConnectProtocol) throw new Error('the server does not announce extended CONNECT');
  for (let i = 0; i < count; i++) {
    socket();
    request();
  }
});
