// The echo server of the bench on QWebSocketServer.
#include <QCoreApplication>
#include <QList>
#include <QWebSocket>
#include <QWebSocketServer>
#include <csignal>
#include <sys/resource.h>
#include <unistd.h>
#include <cstdio>

int main(int argc, char **argv) {
    QCoreApplication app(argc, argv);
    rlimit limit;
    limit.rlim_cur = limit.rlim_max = 65536;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    signal(SIGUSR1, SIG_IGN);

    QWebSocketServer server("bench", QWebSocketServer::NonSecureMode);
    QList<QWebSocket *> all;
    QObject::connect(&server, &QWebSocketServer::newConnection, [&] {
        while (QWebSocket *s = server.nextPendingConnection()) {
            const bool broadcast = s->requestUrl().path() == "/broadcast";
            if (broadcast)
                all.append(s);
            QObject::connect(s, &QWebSocket::textMessageReceived, [&all, s, broadcast](const QString &m) {
                if (!broadcast) {
                    s->sendTextMessage(m);
                    return;
                }
                for (QWebSocket *other : all)
                    other->sendTextMessage(m);
            });
            QObject::connect(s, &QWebSocket::binaryMessageReceived, [s](const QByteArray &m) { s->sendBinaryMessage(m); });
            QObject::connect(s, &QWebSocket::disconnected, [&all, s] {
                all.removeOne(s);
                s->deleteLater();
            });
        }
    });
    if (!server.listen(QHostAddress::LocalHost, 0))
        return 1;
    std::printf("%d\n", server.serverPort());
    std::fflush(stdout);
    return app.exec();
}
