//! The JAR that everything here runs: says a word, waits, or prints without end. Made on the spot.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use super::super::sandbox::Sandbox;

/// What it does is the first argument. Waiting ends after ten minutes, or when the JAR is gone, so that nothing outlives a
/// benchmark that was killed.
const SOURCE: &str = r#"
import java.io.File;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.util.Arrays;

public class Load {
    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "wait":
                System.out.println("up");
                File jar = new File(args[1]);
                for (int turn = 0; turn < 120 && jar.exists(); turn++) Thread.sleep(5000);
                break;
            case "flood":
                flood(Long.parseLong(args[1]) << 20);
                break;
            default:
                System.out.println("hello");
        }
    }

    /** Lines of 128 bytes, as fast as they are taken. */
    static void flood(long bytes) throws Exception {
        byte[] piece = new byte[1 << 16];
        Arrays.fill(piece, (byte) 'x');
        for (int end = 127; end < piece.length; end += 128) piece[end] = '\n';
        try (FileOutputStream out = new FileOutputStream(FileDescriptor.out)) {
            for (long left = bytes; left > 0; left -= piece.length) out.write(piece);
        }
    }
}
"#;

/// Compiles it for an old Java, so that whichever JVM is the default can run it, into a folder that every user may read.
///
/// # Errors
///
/// A compiler that refuses, or a folder that cannot be written.
pub(super) fn build(sandbox: &Sandbox) -> Result<PathBuf> {
    let folder = sandbox.dir().join("jars");
    fs::create_dir(&folder)?;
    fs::write(folder.join("Load.java"), SOURCE)?;
    for line in [
        "javac --release 11 Load.java",
        "jar --create --file load.jar --main-class Load Load.class",
    ] {
        let mut words = line.split(' ');
        let mut command = sandbox.command(words.next().unwrap_or_default());
        let output = command.args(words).current_dir(&folder).output();
        let output = output.with_context(|| format!("cannot run `{line}`"))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("`{line}` ended with {}: {errors}", output.status);
        }
    }
    let jar = folder.join("load.jar");
    for (path, mode) in [(sandbox.dir(), 0o755), (&folder, 0o755), (&jar, 0o644)] {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(jar)
}
