//! go-plugin's handshake: whether an agent started this process as a plugin, and the one line that tells it where the
//! plugin listens. The socket itself is in [`crate::serve`].
//!
//! The line is the first and the last thing on standard output:
//!
//! ```text
//! 1|2|unix|/tmp/milo-4f2a/plugin.sock|grpc
//! │ │  │    │                          └ how to speak
//! │ │  │    └ where, 107 bytes at most
//! │ │  └ over what
//! │ └ Nomad's version of the plugin protocol
//! └ go-plugin's version of this line
//! ```

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// What an agent puts into a plugin's environment.
const COOKIE: &str = "NOMAD_PLUGIN_MAGIC_COOKIE";

/// With this value.
const COOKIE_VALUE: &str = "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255";

/// The longest path that the address of a socket holds, without its final zero (unix(7)).
pub const LONGEST_SOCKET: usize = 107;

/// How an agent called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Where it wants the socket to be.
    pub socket_dir: Option<PathBuf>,
    /// Whether it reads a seventh field: that of a multiplexed broker.
    pub reads_multiplex: bool,
}

/// Why this process is no plugin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No agent called.
    #[error(
        "This binary is a Nomad plugin: an agent starts it from its plugin directory, nobody else does.\n\
         It did not find the agent's cookie in its environment."
    )]
    NotCalled,
    /// The agent wants TLS.
    #[error(
        "the agent wants to speak TLS (PLUGIN_CLIENT_CERT is set), which Nomad does not do with drivers and this plugin does not offer"
    )]
    Tls,
}

/// Whether the environment is that of an agent's call.
pub fn is_called(lookup: &dyn Fn(&str) -> Option<OsString>) -> bool {
    lookup(COOKIE).is_some_and(|value| value == COOKIE_VALUE)
}

/// Reads an agent's call from the environment.
pub fn call(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Call, Refusal> {
    let set = |name| lookup(name).filter(|value| !value.is_empty());
    if !is_called(lookup) {
        return Err(Refusal::NotCalled);
    }
    if set("PLUGIN_CLIENT_CERT").is_some() {
        return Err(Refusal::Tls);
    }
    Ok(Call {
        socket_dir: set("PLUGIN_UNIX_SOCKET_DIR").map(PathBuf::from),
        reads_multiplex: set("PLUGIN_MULTIPLEX_GRPC").is_some(),
    })
}

impl Call {
    /// Tells the agent where the plugin listens.
    pub fn answer(&self, output: &mut impl Write, socket: &Path) -> io::Result<()> {
        let more = if self.reads_multiplex { "||false" } else { "" };
        writeln!(output, "1|2|unix|{}|grpc{more}", socket.display())?;
        output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(
        pairs: &'static [(&'static str, &'static str)],
    ) -> impl Fn(&str) -> Option<OsString> {
        |name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        }
    }

    #[test]
    fn without_the_cookie_this_is_no_plugin() {
        assert_eq!(call(&environment(&[])), Err(Refusal::NotCalled));
        assert_eq!(
            call(&environment(&[(COOKIE, "x")])),
            Err(Refusal::NotCalled)
        );
        assert_eq!(
            call(&environment(&[(COOKIE, COOKIE_VALUE)])),
            Ok(Call::default())
        );
    }

    #[test]
    fn a_certificate_is_refused_not_ignored() {
        let called = environment(&[(COOKIE, COOKIE_VALUE), ("PLUGIN_CLIENT_CERT", "-----BEGIN")]);
        assert_eq!(call(&called), Err(Refusal::Tls));
    }

    #[test]
    fn the_line_has_five_fields_unless_seven_are_read() {
        let line = |call: Call| {
            let mut line = Vec::new();
            call.answer(&mut line, Path::new("/tmp/m/plugin.sock"))
                .unwrap();
            String::from_utf8(line).unwrap()
        };
        assert_eq!(line(Call::default()), "1|2|unix|/tmp/m/plugin.sock|grpc\n");
        let newer = Call {
            reads_multiplex: true,
            ..Call::default()
        };
        assert_eq!(line(newer), "1|2|unix|/tmp/m/plugin.sock|grpc||false\n");
    }
}
