import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.*;
import javax.net.ssl.*;

/** One program for all tests: the first argument says what it does. */
public class Kit {
    public static void main(String[] args) throws Exception {
        String[] rest = args.length == 0 ? args : Arrays.copyOfRange(args, 1, args.length);
        switch (args.length == 0 ? "hello" : args[0]) {
            case "hello" -> System.out.print("Hello from Java!\nMilo driver test complete\n");
            case "exit" -> exit(Integer.parseInt(rest[0]));
            case "gate" -> gate(rest[0], Integer.parseInt(rest[1]));
            case "cat" -> System.in.transferTo(System.out);
            case "facts" -> facts();
            case "env" -> Arrays.stream(rest).forEach(name -> System.out.println(name + "=" + System.getenv(name)));
            case "write" -> Arrays.stream(rest).forEach(Kit::write);
            case "eat" -> eat();
            case "bomb" -> bomb(rest[0]);
            case "tls" -> tls(rest[0], rest[1]);
            case "connect" -> connect(Integer.parseInt(rest[0]));
            case "sleep" -> sleep();
            case "linger" -> linger();
            case "busy" -> busy();
            case "flood" -> flood(Integer.parseInt(rest[0]));
            case "tell" -> tell(rest[0]);
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    static void exit(int code) {
        System.err.println("Application encountered an error");
        System.exit(code);
    }

    /** Says so, and ends when the gate, a FIFO, is closed by its last writer. */
    static void gate(String path, int code) throws Exception {
        System.out.println("Starting application...");
        try (InputStream gate = new FileInputStream(path)) { while (gate.read() >= 0) { } }
        System.out.println("The gate was opened");
        System.exit(code);
    }

    /** Says a line for every byte that comes through the FIFO. */
    static void tell(String path) throws Exception {
        System.out.println("Starting application...");
        try (InputStream gate = new FileInputStream(path)) {
            for (int line = gate.read(); line >= 0; line = gate.read()) System.out.println("line " + (char) line);
        }
        System.exit(System.out.checkError() ? 1 : 0);
    }

    /** More than a pipe holds, and then the end. */
    static void flood(int lines) {
        for (int line = 0; line < lines; line++) System.out.println("line " + line);
        System.exit(System.out.checkError() ? 1 : 0);
    }

    static void facts() throws Exception {
        System.out.println("heap=" + Runtime.getRuntime().maxMemory() / 1048576);
        System.out.println("host=" + InetAddress.getLocalHost().getHostAddress());
        System.out.println("zone=" + TimeZone.getDefault().getID());
        System.out.println("user=" + System.getProperty("user.name"));
        System.out.println("cwd=" + System.getProperty("user.dir"));
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init((KeyStore) null);
        System.out.println("anchors=" + (((X509TrustManager) trust.getTrustManagers()[0]).getAcceptedIssuers().length > 0));
        for (String line : Files.readAllLines(Path.of("/proc/self/status")))
            if (line.matches("(Uid|Gid|CapEff|CapBnd|NoNewPrivs|Seccomp):.*"))
                System.out.println(line.replaceFirst(":\\s*", "=").replaceAll("\\s+", " "));
    }

    static void write(String folder) {
        try {
            Files.writeString(Path.of(folder, "written"), "x");
            System.out.println(folder + "=yes");
        } catch (IOException error) {
            System.out.println(folder + "=no");
        }
    }

    /** Memory that is not the heap's: the kernel's limit is reached, not the JVM's. */
    static void eat() throws Exception {
        System.out.println("Starting application...");
        List<Object> eaten = new ArrayList<>();
        while (true) {
            java.nio.ByteBuffer block = java.nio.ByteBuffer.allocateDirect(4 << 20);
            for (int at = 0; at < block.capacity(); at += 4096) block.put(at, (byte) 1);
            eaten.add(block);
        }
    }

    /** Starts processes until that fails, then waits at the gate. */
    static void bomb(String gate) throws Exception {
        int count = 0;
        try {
            for (; count < 10_000; count++) new ProcessBuilder("/usr/bin/sleep", "1000").start();
        } catch (IOException | OutOfMemoryError error) {
            System.out.println("held after " + count);
        }
        gate(gate, 0);
    }

    static void tls(String authority, String url) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream file = new FileInputStream(authority)) {
            store.setCertificateEntry("test", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        System.out.println("mine=" + get(url, context));
        System.out.println("default=" + get(url, SSLContext.getDefault()));
    }

    static String get(String url, SSLContext context) throws Exception {
        HttpsURLConnection connection = (HttpsURLConnection) URI.create(url).toURL().openConnection();
        connection.setSSLSocketFactory(context.getSocketFactory());
        try (InputStream body = connection.getInputStream()) {
            return new String(body.readAllBytes()).trim();
        } catch (SSLHandshakeException error) {
            return "refused";
        }
    }

    static void connect(int port) throws Exception {
        System.out.println("interfaces=" + Collections.list(NetworkInterface.getNetworkInterfaces()).stream().map(NetworkInterface::getName).toList());
        try (Socket socket = new Socket()) {
            socket.connect(new InetSocketAddress("127.0.0.1", port));
            System.out.println("connected=yes");
        } catch (IOException error) {
            System.out.println("connected=no");
        }
    }

    static void sleep() throws Exception {
        System.out.println("Starting application...");
        Thread.sleep(Long.MAX_VALUE);
    }

    /** Hears that it is to end, says so, and does not. */
    static void linger() throws Exception {
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            System.out.println("asked to end");
            while (true) try { Thread.sleep(Long.MAX_VALUE); } catch (InterruptedException again) { }
        }));
        sleep();
    }

    static void busy() {
        System.out.println("Starting application...");
        while (true) Thread.onSpinWait();
    }
}
