// A client or a server of Node's ws for the end-to-end tests.
//
//	peer.js client URL     echoes messages of all sizes, pings, and closes with 4001
//	peer.js server         echoes until its standard input ends; prints its port
const { WebSocket, WebSocketServer } = require('ws');

function client(url) {
  const s = new WebSocket(url, ['chat.v1'], { perMessageDeflate: true });
  const messages = [];
  for (const n of [0, 1, 125, 126, 65535, 65536, 1 << 20]) {
    messages.push('x'.repeat(n), Buffer.alloc(n, 7));
  }
  let waiting = 0;
  const next = () => {
    if (waiting === messages.length) {
      s.ping('are you there');
      return;
    }
    s.send(messages[waiting]);
  };
  s.on('open', next);
  s.on('message', (data, binary) => {
    const want = messages[waiting++];
    if (binary !== Buffer.isBuffer(want) || Buffer.compare(data, Buffer.from(want)) !== 0) {
      throw new Error('the echo differs');
    }
    next();
  });
  s.on('pong', (data) => {
    console.log('pong', data.toString());
    console.log('extensions', s.extensions);
    s.close(4001, 'that was all');
  });
  s.on('close', (code, reason) => console.log('closed', code, reason.toString()));
}

function server() {
  const wss = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: true });
  wss.on('listening', () => console.log('port', wss.address().port));
  wss.on('connection', (s) => {
    s.on('message', (data, binary) => s.send(data, { binary }));
    s.on('close', (code, reason) => console.log('closed', code, reason.toString()));
  });
  process.stdin.resume();
  process.stdin.on('end', () => process.exit());
}

process.argv[2] === 'client' ? client(process.argv[3]) : server();
