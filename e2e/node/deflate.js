// A client or a server of Node's ws, with permessage-deflate in every parameter that it can offer, or of websocket, which has none.
//
//	deflate.js client URL COUNT     echoes COUNT messages for each offer; prints the offer and what was agreed to
//	deflate.js server               echoes until its standard input ends; prints a port for each configuration
//	deflate.js plain-client URL COUNT, plain-server     the same with the package websocket
const http = require('http');
const { WebSocket, WebSocketServer } = require('ws');
const words = 'the quick brown fox jumps over a lazy dog while seven green lamps shine on every second street'.split(' ');

function random(seed) { // mulberry32
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function message(r) {
  const kind = r();
  if (kind < 0.99) {
    const n = Math.floor(r() * (kind < 0.9 ? 40 : 1000));
    return Array.from({ length: n }, () => words[Math.floor(r() * words.length)]).join(' ');
  }
  const p = Buffer.alloc(Math.floor(r() * 70000));
  for (let i = 0; i < p.length; i++) p[i] = Math.floor(r() * 256);
  return p;
}

function product(...lists) {
  return lists.reduce((all, list) => all.flatMap((a) => list.map((x) => [...a, x])), [[]]);
}

// A talker sends messages and compares what comes back.
class Talker {
  constructor(count, send, end) {
    Object.assign(this, { count, send, end, random: random(1), sent: 0, got: 0, waiting: [], failure: '' });
  }
  begin() { for (let i = 0; i < 32; i++) this.more(); }
  more() {
    if (this.sent < this.count) {
      const m = message(this.random);
      this.waiting.push(m);
      this.sent++;
      this.send(m);
    }
  }
  echoed(data, binary) {
    const want = this.waiting.shift();
    if (binary !== Buffer.isBuffer(want) || Buffer.compare(Buffer.from(data), Buffer.from(want)) !== 0) {
      this.failure = `message ${this.got} differs: ${data.length} bytes, ${want.length} were sent`;
      this.end();
    } else if (++this.got === this.count) {
      this.end();
    } else {
      this.more();
    }
  }
  closed(offer, answer, code) {
    if (!this.failure && this.got !== this.count) this.failure = `closed with ${code} after ${this.got}`;
    console.log(JSON.stringify({ offer, answer, failure: this.failure }));
  }
}

async function client(url, count) {
  for (const [serverNo, clientNo, serverBits, clientBits] of product([undefined, true], [undefined, true], [undefined, 9, 10, 11, 12, 13, 14, 15], [false, true, 9, 12])) {
    const perMessageDeflate = { threshold: 0, serverNoContextTakeover: serverNo, clientNoContextTakeover: clientNo, serverMaxWindowBits: serverBits, clientMaxWindowBits: clientBits };
    await new Promise((resolve) => {
      const s = new WebSocket(url, { perMessageDeflate });
      let answer = '';
      const t = new Talker(count, (m) => s.send(m), () => s.close(1000));
      s.on('upgrade', (res) => { answer = res.headers['sec-websocket-extensions'] || ''; });
      s.on('open', () => t.begin());
      s.on('message', (data, binary) => t.echoed(data, binary));
      s.on('error', (err) => { t.failure = t.failure || String(err); });
      s.on('close', (code) => {
        const offer = ['permessage-deflate', serverNo && 'server_no_context_takeover', clientNo && 'client_no_context_takeover',
          serverBits && `server_max_window_bits=${serverBits}`, clientBits && (clientBits === true ? 'client_max_window_bits' : `client_max_window_bits=${clientBits}`)];
        t.closed(offer.filter(Boolean).join('; '), answer, code);
        resolve();
      });
    });
  }
}

async function server() {
  for (const [serverNo, clientNo, serverBits, clientBits] of product([undefined, true], [undefined, true], [undefined, 9, 12, 15], [undefined, 9, 12])) {
    const wss = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: { threshold: 0, serverNoContextTakeover: serverNo, clientNoContextTakeover: clientNo, serverMaxWindowBits: serverBits, clientMaxWindowBits: clientBits } });
    wss.on('connection', (s) => s.on('message', (data, binary) => s.send(data, { binary })));
    await new Promise((resolve) => wss.on('listening', resolve));
    console.log('port', wss.address().port);
  }
  console.log('end');
  process.stdin.resume();
  process.stdin.on('end', () => process.exit());
}

function plainClient(url, count) {
  const c = new (require('websocket').client)({ maxReceivedMessageSize: 4 << 20, maxReceivedFrameSize: 4 << 20 });
  c.on('connect', (s) => {
    const t = new Talker(count, (m) => (Buffer.isBuffer(m) ? s.sendBytes(m) : s.sendUTF(m)), () => s.close());
    s.on('message', (m) => (m.type === 'utf8' ? t.echoed(Buffer.from(m.utf8Data), false) : t.echoed(m.binaryData, true)));
    s.on('close', (code) => t.closed('', '', code));
    t.begin();
  });
  c.on('connectFailed', (err) => console.log(JSON.stringify({ offer: '', answer: '', failure: String(err) })));
  c.connect(url);
}

function plainServer() {
  const h = http.createServer();
  const s = new (require('websocket').server)({ httpServer: h, autoAcceptConnections: true, maxReceivedMessageSize: 4 << 20, maxReceivedFrameSize: 4 << 20 });
  s.on('connect', (c) => c.on('message', (m) => (m.type === 'utf8' ? c.sendUTF(m.utf8Data) : c.sendBytes(m.binaryData))));
  h.listen(0, '127.0.0.1', () => console.log(`port ${h.address().port}\nend`));
  process.stdin.resume();
  process.stdin.on('end', () => process.exit());
}

const [what, url, count] = process.argv.slice(2);
({ client, server, 'plain-client': plainClient, 'plain-server': plainServer })[what](url, Number(count));
