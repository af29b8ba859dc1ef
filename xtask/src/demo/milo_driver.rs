//! milo-driver's demo: a JAR made on the spot, then what its users do with one, on the command line. Nomad is not needed.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Shown, wait_for};
use crate::deps;

const TOOL: &str = "milo-driver";

/// What the JAR does is its first argument.
const SOURCE: &str = r#"
public class Hello {
    public static void main(String[] args) throws InterruptedException {
        switch (args[0]) {
            case "heap":
                System.out.println(Runtime.getRuntime().maxMemory());
                break;
            case "exit":
                System.exit(Integer.parseInt(args[1]));
                break;
            case "serve":
                Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("bye")));
                System.out.println("serving");
                Thread.sleep(Long.MAX_VALUE);
                break;
            default:
                System.out.println("hello, " + args[0]);
        }
    }
}
"#;

/// Runs the demonstrations. What they need and is not there is one that failed, with what to do.
pub(crate) fn demonstrate(binary: &Path) -> Result<Vec<Shown>> {
    let missing = deps::absent(&["crun", "java", "javac", "jar"]);
    if !missing.is_empty() {
        let why = format!(
            "{} not found: `cargo xtask deps --install` installs what is missing",
            missing.join(", ")
        );
        return Ok(vec![Shown::of(TOOL, "run a JAR in a container", || {
            bail!(why)
        })]);
    }
    let place = Place::new(binary)?;
    Ok(vec![
        Shown::of(TOOL, "run a JAR in a container", || place.hello()),
        Shown::of(TOOL, "size the heap from the task's memory", || {
            place.heap()
        }),
        Shown::of(TOOL, "pass the exit code on", || place.exit_code()),
        Shown::of(TOOL, "detach, list, read the log, stop", || {
            place.detached()
        }),
        Shown::of(TOOL, "list the JVMs of this host", || place.jres()),
    ])
}

/// A folder with the JAR in it, and the name of the container that is left running.
struct Place {
    binary: PathBuf,
    directory: PathBuf,
    jar: String,
    name: String,
}

impl Place {
    fn new(binary: &Path) -> Result<Self> {
        let name = format!("runyard-demo-{}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(&directory)?;
        let place = Self {
            binary: binary.to_owned(),
            jar: directory.join("hello.jar").to_string_lossy().into_owned(),
            directory,
            name,
        };
        place.build()?;
        Ok(place)
    }

    /// Compiled for an old Java, so that whichever JVM is the default can run it.
    fn build(&self) -> Result<()> {
        fs::write(self.directory.join("Hello.java"), SOURCE)?;
        self.tool("javac", &["--release", "11", "Hello.java"])?;
        let entry = ["--main-class", "Hello", "Hello.class"];
        let file = ["--create", "--file", "hello.jar"];
        self.tool("jar", &[file, entry].concat())?;
        // The container's user is nobody, whatever the umask here.
        fs::set_permissions(&self.directory, Permissions::from_mode(0o755))?;
        fs::set_permissions(&self.jar, Permissions::from_mode(0o644))?;
        Ok(())
    }

    fn tool(&self, program: &str, args: &[&str]) -> Result<()> {
        let output = Command::new(program)
            .args(args)
            .current_dir(&self.directory)
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        ensure!(
            output.status.success(),
            "{program} {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn hello(&self) -> Result<String> {
        let (code, output, errors) = self.call(&["run", &self.jar, "--", "world"])?;
        ensure!(
            (code, output.as_str()) == (0, "hello, world\n"),
            "exit {code}, output {output:?}: {errors}"
        );
        Ok(format!("exit {code}: {}", output.trim()))
    }

    fn heap(&self) -> Result<String> {
        let args = ["run", "--memory", "64m", &self.jar, "--", "heap"];
        let output = self.done(&args)?;
        let bytes: u64 = output
            .trim()
            .parse()
            .with_context(|| format!("output {output:?}"))?;
        let heap = bytes >> 20;
        ensure!(heap < 64, "the JVM sees a heap of {heap} MiB in 64 MiB");
        Ok(format!("the JVM sees a heap of {heap} MiB in 64 MiB"))
    }

    fn exit_code(&self) -> Result<String> {
        let (code, _, errors) = self.call(&["run", &self.jar, "--", "exit", "42"])?;
        ensure!(code == 42, "exit {code} instead of 42: {errors}");
        Ok("exit 42".to_owned())
    }

    fn detached(&self) -> Result<String> {
        let name = self.name.as_str();
        self.done(&["run", "--detach", "--name", name, &self.jar, "--", "serve"])?;
        let listed = self.done(&["ps"])?;
        ensure!(listed.contains(name), "`ps` does not list {name}: {listed}");
        self.wait_for_log("serving")?;
        self.done(&["stop", name])?;
        self.wait_for_log("bye")?;
        Ok("stopped, and its shutdown hook ran".to_owned())
    }

    fn wait_for_log(&self, line: &str) -> Result<String> {
        wait_for(&format!("`{line}` in the log"), || {
            let log = self.done(&["logs", &self.name])?;
            Ok(log.contains(line).then_some(log))
        })
    }

    fn jres(&self) -> Result<String> {
        let answer: Value = serde_json::from_str(&self.done(&["--output", "json", "jres"])?)?;
        let all = answer["jres"].as_array().map_or(0, Vec::len);
        let default = answer["default"]["home"]
            .as_str()
            .context("no default JVM")?;
        Ok(format!("{all} found, default {default}"))
    }

    /// Runs the driver: exit code, standard output and standard error.
    fn call(&self, args: &[&str]) -> Result<(i32, String, String)> {
        let output = Command::new(&self.binary)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{TOOL} {args:?}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((
            output.status.code().unwrap_or(-1),
            text(&output.stdout),
            text(&output.stderr),
        ))
    }

    /// The output of a call that must succeed.
    fn done(&self, args: &[&str]) -> Result<String> {
        let (code, output, errors) = self.call(args)?;
        ensure!(code == 0, "{TOOL} {args:?}: exit {code}: {}", errors.trim());
        Ok(output)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Best effort: the demo is over. There may be no such container.
        let _ = self.call(&["stop", "--timeout", "0s", &self.name]);
        let _ = self.call(&["rm", &self.name]);
        let _ = fs::remove_dir_all(&self.directory);
    }
}
