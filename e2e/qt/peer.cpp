// peer is a QWebSocket or a QWebSocketServer for the end-to-end tests. It takes commands from its standard input and says
// on its standard output what happens, a line each.
//
//	peer client URL ORIGIN SUBPROTOCOLS     commands: text WORD, binary N, ping WORD, close CODE REASON, abort, split N,
//	                                        frames N, messages N, get, states
//	peer server [CERTIFICATE KEY | psk]     echoes; the same commands, for the last client; stop, pending N
#include <QtCore/QCoreApplication>
#include <QtCore/QFile>
#include <QtCore/QSocketNotifier>
#include <QtCore/QTextStream>
#include <QtNetwork/QSslCertificate>
#include <QtNetwork/QSslCipher>
#include <QtNetwork/QSslConfiguration>
#include <QtNetwork/QSslKey>
#include <QtNetwork/QSslPreSharedKeyAuthenticator>
#include <QtWebSockets/QWebSocket>
#include <QtWebSockets/QWebSocketCorsAuthenticator>
#include <QtWebSockets/QWebSocketHandshakeOptions>
#include <QtWebSockets/QWebSocketServer>

#include <functional>
#include <unistd.h>

static void say(const QString &line)
{
    const QByteArray bytes = line.toUtf8() + '\n';
    if (::write(1, bytes.constData(), bytes.size()) < 0)
        QCoreApplication::exit(1);
}

// sum is what a binary message is told by, with its size.
static quint32 sum(const QByteArray &bytes)
{
    quint32 s = 0;
    for (char c : bytes)
        s = s * 31 + quint8(c);
    return s;
}

static QByteArray pattern(int n)
{
    QByteArray bytes(n, 0);
    for (int i = 0; i < n; i++)
        bytes[i] = char(i * 7);
    return bytes;
}

// watch says what happens to a socket.
static void watch(QWebSocket *s)
{
    QObject::connect(s, &QWebSocket::textFrameReceived, [](const QString &m, bool last) { say(QString("frame %1 %2").arg(m.size()).arg(last)); });
    QObject::connect(s, &QWebSocket::textMessageReceived, [](const QString &m) { say("text " + (m.size() > 100 ? QString::number(m.size()) : m)); });
    QObject::connect(s, &QWebSocket::binaryMessageReceived, [](const QByteArray &m) { say(QString("binary %1 %2").arg(m.size()).arg(sum(m))); });
    QObject::connect(s, &QWebSocket::pong, [](quint64, const QByteArray &p) { say("pong " + QString(p)); });
    QObject::connect(s, &QWebSocket::disconnected, [s] { say(QString("closed %1 %2").arg(s->closeCode()).arg(s->closeReason())); });
    QObject::connect(s, QOverload<QAbstractSocket::SocketError>::of(&QWebSocket::error), [s] { say("error " + s->errorString()); });
}

// getters are the values of a socket that do not differ from run to run.
static QString getters(QWebSocket *s)
{
    return QString("get %1 %2 %3 %4 %5 %6 %7 %8 %9").arg(s->state()).arg(s->isValid()).arg(s->origin()).arg(int(s->version()))
        .arg(s->subprotocol()).arg(s->closeCode()).arg(s->closeReason()).arg(s->requestUrl().path()).arg(s->handshakeOptions().subprotocols().join(','))
        + QString(" %1 %2 %3 %4 %5 %6 %7").arg(int(s->error())).arg(int(s->pauseMode())).arg(s->readBufferSize())
        .arg(s->maxAllowedIncomingFrameSize()).arg(s->maxAllowedIncomingMessageSize()).arg(s->outgoingFrameSize()).arg(s->bytesToWrite());
}

// command does to a socket what a line says.
static void command(QWebSocket *s, const QString &line)
{
    const QString verb = line.section(' ', 0, 0), rest = line.section(' ', 1);
    if (verb == "text")
        s->sendTextMessage(rest);
    else if (verb == "binary")
        s->sendBinaryMessage(pattern(rest.toInt()));
    else if (verb == "ping")
        s->ping(rest.toUtf8());
    else if (verb == "close")
        s->close(QWebSocketProtocol::CloseCode(rest.section(' ', 0, 0).toInt()), rest.section(' ', 1));
    else if (verb == "abort")
        s->abort();
    else if (verb == "split")
        s->setOutgoingFrameSize(rest.toULongLong());
    else if (verb == "frames")
        s->setMaxAllowedIncomingFrameSize(rest.toULongLong());
    else if (verb == "messages")
        s->setMaxAllowedIncomingMessageSize(rest.toULongLong());
    else if (verb == "get")
        say(getters(s));
    else if (verb == "states")
        QObject::connect(s, &QWebSocket::stateChanged, [](QAbstractSocket::SocketState state) { say(QString("state %1").arg(state)); });
}

// commands calls f for each line of the standard input, and ends with it.
static void commands(QObject *parent, const std::function<void(const QString &)> &f)
{
    auto *input = new QSocketNotifier(0, QSocketNotifier::Read, parent);
    auto *pending = new QByteArray;
    QObject::connect(input, &QSocketNotifier::activated, [=] {
        char b[4096];
        const ssize_t n = ::read(0, b, sizeof b);
        if (n <= 0) {
            QCoreApplication::quit();
            return;
        }
        pending->append(b, int(n));
        for (int end; (end = pending->indexOf('\n')) >= 0; pending->remove(0, end + 1))
            f(QString::fromUtf8(pending->left(end)));
    });
}

// The pre-shared key of both sides, where the environment has it.
static QByteArray preSharedKey() { return qgetenv("PSK"); }

// withPreSharedKey is for TLS 1.2, as in Qt's own tests.
static QSslConfiguration withPreSharedKey()
{
    QSslConfiguration c = QSslConfiguration::defaultConfiguration();
    c.setProtocol(QSsl::TlsV1_2);
    c.setCiphers(QList<QSslCipher>{ QSslCipher("PSK-AES256-CBC-SHA") });
    c.setPeerVerifyMode(QSslSocket::VerifyNone);
    c.setPreSharedKeyIdentityHint("the hint");
    return c;
}

static int client(QCoreApplication &app, const QStringList &args)
{
    auto *s = new QWebSocket(args[3], QWebSocketProtocol::VersionLatest, &app);
    watch(s);
    QObject::connect(s, &QWebSocket::connected, [s] { say("connected " + s->subprotocol()); });
    QObject::connect(s, &QWebSocket::sslErrors, [s](const QList<QSslError> &errors) {
        say("ssl " + errors.first().errorString());
        s->ignoreSslErrors();
    });
    if (!preSharedKey().isEmpty())
        s->setSslConfiguration(withPreSharedKey());
    QObject::connect(s, &QWebSocket::preSharedKeyAuthenticationRequired, [](QSslPreSharedKeyAuthenticator *a) {
        say("hint " + QString(a->identityHint()));
        a->setIdentity("alice");
        a->setPreSharedKey(preSharedKey());
    });
    QWebSocketHandshakeOptions options;
    if (args.size() > 4 && !args[4].isEmpty())
        options.setSubprotocols(args[4].split(','));
    commands(&app, [s](const QString &line) { command(s, line); });
    s->open(QUrl(args[2]), options);
    return app.exec();
}

static int server(QCoreApplication &app, const QStringList &args)
{
    const bool psk = args.size() == 3, secure = args.size() > 2;
    auto *server = new QWebSocketServer("peer", secure ? QWebSocketServer::SecureMode : QWebSocketServer::NonSecureMode, &app);
    if (psk) {
        server->setSslConfiguration(withPreSharedKey());
        QObject::connect(server, &QWebSocketServer::preSharedKeyAuthenticationRequired, [](QSslPreSharedKeyAuthenticator *a) {
            say("identity " + QString(a->identity()));
            a->setPreSharedKey(preSharedKey());
        });
    } else if (secure) {
        QFile certificate(args[2]), key(args[3]);
        if (!certificate.open(QIODevice::ReadOnly) || !key.open(QIODevice::ReadOnly))
            return 1;
        QSslConfiguration configuration;
        configuration.setLocalCertificate(QSslCertificate(&certificate, QSsl::Pem));
        configuration.setPrivateKey(QSslKey(&key, QSsl::Ec, QSsl::Pem));
        server->setSslConfiguration(configuration);
    }
    server->setSupportedSubprotocols({ "chat.v2", "chat.v1" });
    QObject::connect(server, &QWebSocketServer::originAuthenticationRequired, [](QWebSocketCorsAuthenticator *a) {
        a->setAllowed(a->origin() != "https://refused.example.com");
    });
    auto *last = new QWebSocket *(nullptr);
    QObject::connect(server, &QWebSocketServer::newConnection, [=] {
        QWebSocket *s = server->nextPendingConnection();
        *last = s;
        say("connected " + s->subprotocol() + " " + s->requestUrl().path() + " " + s->origin());
        watch(s);
        QObject::connect(s, &QWebSocket::textMessageReceived, s, &QWebSocket::sendTextMessage);
        QObject::connect(s, &QWebSocket::binaryMessageReceived, s, &QWebSocket::sendBinaryMessage);
    });
    if (!server->listen(QHostAddress::LocalHost, 0))
        return 1;
    QObject::connect(server, &QWebSocketServer::serverError, [server](QWebSocketProtocol::CloseCode code) {
        say(QString("refused %1 %2").arg(code).arg(server->errorString()));
    });
    QObject::connect(server, &QWebSocketServer::closed, [] { say("stopped"); });
    commands(&app, [server, last](const QString &line) {
        if (line == "stop")
            server->close();
        else if (line.startsWith("pending "))
            server->setMaxPendingConnections(line.section(' ', 1).toInt());
        else
            command(*last, line);
    });
    say("port " + QString::number(server->serverPort()));
    return app.exec();
}

int main(int argc, char **argv)
{
    QCoreApplication app(argc, argv);
    const QStringList args = app.arguments();
    if (args.size() > 3 && args[1] == "client")
        return client(app, args);
    if (args.size() > 1 && args[1] == "server")
        return server(app, args);
    return 2;
}
