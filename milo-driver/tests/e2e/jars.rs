//! The program that these tests run: one class whose first argument says what it does.

use std::{fs, process::Command, sync::OnceLock};

use runyard_common::testing::{Output, tempdir};

const SOURCE: &str = r#"
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.file.*;
import java.util.*;

public class App {
    public static void main(String[] args) throws Exception {
        String verb = args.length == 0 ? "" : args[0];
        if (verb.isEmpty()) {
            System.out.println("Hello from Java!");
            System.out.println("Milo driver test complete");
        } else if (verb.equals("exit")) {
            System.out.println("Application encountered an error");
            System.exit(Integer.parseInt(args[1]));
        } else if (verb.equals("stay")) {
            stay();
        } else if (verb.equals("deaf")) {
            sun.misc.Signal.handle(new sun.misc.Signal("TERM"), s -> System.out.println("no"));
            stay();
        } else if (verb.equals("until")) {
            System.out.println("Starting application...");
            while (!Files.exists(Path.of(args[1]))) Thread.sleep(20);
            System.exit(Integer.parseInt(args[2]));
        } else if (verb.equals("eat")) {
            eat();
        } else if (verb.chars().allMatch(Character::isDigit)) {
            serve(args);
        } else {
            System.out.println(String.join(" ", args));
        }
    }

    static void stay() throws Exception {
        sun.misc.Signal.handle(new sun.misc.Signal("HUP"), s -> System.out.println("hung up"));
        System.out.println("Starting application...");
        Thread.sleep(Long.MAX_VALUE);
    }

    /** More than any limit of these tests, half of it outside of the heap, where no JVM counts it. */
    static void eat() {
        List<Object> eaten = new ArrayList<>();
        System.out.println("Eating...");
        while (true) {
            ByteBuffer food = ByteBuffer.allocateDirect(1 << 20);
            while (food.hasRemaining()) food.put((byte) 1);
            eaten.add(food);
        }
    }

    static void serve(String[] args) throws Exception {
        int port = Integer.parseInt(args[0]);
        Properties properties = new Properties();
        if (args.length > 1) properties.load(Files.newBufferedReader(Path.of(args[1])));
        InetSocketAddress address = new InetSocketAddress(args.length > 1 ? "127.0.0.1" : "0.0.0.0", port);
        com.sun.net.httpserver.HttpServer server = com.sun.net.httpserver.HttpServer.create(address, 0);
        server.createContext("/", exchange -> {
            byte[] body = (properties.getProperty("port") + "\n").getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
        System.out.println("listening on " + port);
    }
}
"#;

/// The JAR, or nothing where there is no JDK to make it, which is said.
pub(crate) fn app() -> Option<Vec<u8>> {
    static APP: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let app = APP.get_or_init(build).clone();
    if app.is_none() {
        eprintln!("skipped: needs javac and jar in PATH");
    }
    app
}

fn build() -> Option<Vec<u8>> {
    super::agent::in_path("javac")?;
    super::agent::in_path("jar")?;
    let dir = tempdir();
    fs::write(dir.path().join("App.java"), SOURCE).unwrap();
    let run = |program: &str, args: &[&str]| {
        Output::of(Command::new(program).args(args).current_dir(dir.path())).success()
    };
    // Whichever JVM is the default can run what an old one can.
    run(
        "javac",
        &[
            "-nowarn", "-source", "11", "-target", "11", "-d", "out", "App.java",
        ],
    );
    let entry = [
        "--create",
        "--file",
        "app.jar",
        "--main-class",
        "App",
        "-C",
        "out",
        ".",
    ];
    run("jar", &entry);
    fs::read(dir.path().join("app.jar")).ok()
}
