import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import java.security.cert.Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.*;
import javax.net.ssl.*;

/**
 * One end of a connection of TLS 1.3: "connect PORT COMMAND BYTES" or "listen CERT KEY". Who connects says a line,
 * "upload N", "download N" or "halt 0", and then the bytes go one way and the digest of them comes back as a line.
 * With halt the process ends without close_notify. records_jdk_linux_test.go has the same in Go.
 */
public class Records {
    static final TrustManager ANY = new X509ExtendedTrustManager() {
        public void checkClientTrusted(X509Certificate[] c, String a) {}
        public void checkServerTrusted(X509Certificate[] c, String a) {}
        public void checkClientTrusted(X509Certificate[] c, String a, java.net.Socket s) {}
        public void checkServerTrusted(X509Certificate[] c, String a, java.net.Socket s) {}
        public void checkClientTrusted(X509Certificate[] c, String a, SSLEngine e) {}
        public void checkServerTrusted(X509Certificate[] c, String a, SSLEngine e) {}
        public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    };

    public static void main(String[] args) throws Exception {
        SSLContext context = SSLContext.getInstance("TLSv1.3");
        if (args[0].equals("connect")) {
            context.init(null, new TrustManager[] {ANY}, null);
            SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket("127.0.0.1", Integer.parseInt(args[1]));
            connected(socket, args[2], Long.parseLong(args[3]));
            return;
        }
        context.init(keys(args[1], args[2]), null, null);
        SSLServerSocket server = (SSLServerSocket) context.getServerSocketFactory().createServerSocket(0, 5, java.net.InetAddress.getByName("127.0.0.1"));
        System.out.println("listening on " + server.getLocalPort() + ".");
        accepted((SSLSocket) server.accept());
    }

    static KeyManager[] keys(String certificate, String key) throws Exception {
        Certificate leaf = CertificateFactory.getInstance("X.509").generateCertificate(new FileInputStream(certificate));
        String text = Files.readString(Path.of(key)).replaceAll("-----[^-]*-----", "");
        PrivateKey secret = KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(text)));
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        store.setKeyEntry("leaf", secret, new char[0], new Certificate[] {leaf});
        KeyManagerFactory factory = KeyManagerFactory.getInstance("PKIX");
        factory.init(store, new char[0]);
        return factory.getKeyManagers();
    }

    static void connected(SSLSocket socket, String command, long n) throws Exception {
        OutputStream out = socket.getOutputStream();
        InputStream in = socket.getInputStream();
        out.write((command + " " + n + "\n").getBytes(StandardCharsets.US_ASCII));
        if (command.equals("halt")) {
            in.read(); // it is under way
            Runtime.getRuntime().halt(0);
        }
        String want = command.equals("upload") ? send(out, n) : receive(in, n);
        String got = line(in);
        System.out.println(command + (want.equals(got) ? " is whole" : " is broken: " + got));
        socket.shutdownOutput();
        if (in.read() != -1) throw new IOException("more than the digest");
        socket.close();
    }

    static void accepted(SSLSocket socket) throws Exception {
        OutputStream out = socket.getOutputStream();
        InputStream in = socket.getInputStream();
        String[] command = line(in).split(" ");
        long n = Long.parseLong(command[1]);
        if (command[0].equals("halt")) {
            out.write('x');
            in.read();
            return;
        }
        String digest = command[0].equals("upload") ? receive(in, n) : send(out, n);
        out.write((digest + "\n").getBytes(StandardCharsets.US_ASCII));
        socket.shutdownOutput();
        if (in.read() != -1) throw new IOException("more than the bytes");
        socket.close();
    }

    static String send(OutputStream out, long n) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        byte[] piece = new byte[60000];
        new Random(1).nextBytes(piece);
        for (; n > 0; n -= piece.length) {
            int size = (int) Math.min(n, piece.length);
            digest.update(piece, 0, size);
            out.write(piece, 0, size);
        }
        return HexFormat.of().formatHex(digest.digest());
    }

    static String receive(InputStream in, long n) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        byte[] piece = new byte[60000];
        while (n > 0) {
            int size = in.read(piece, 0, (int) Math.min(n, piece.length));
            if (size < 0) throw new EOFException(n + " bytes are missing");
            digest.update(piece, 0, size);
            n -= size;
        }
        return HexFormat.of().formatHex(digest.digest());
    }

    static String line(InputStream in) throws IOException {
        StringBuilder line = new StringBuilder();
        for (int c; (c = in.read()) != '\n'; line.append((char) c)) {
            if (c < 0) throw new EOFException("after " + line);
        }
        return line.toString();
    }
}
