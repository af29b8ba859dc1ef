//! The `overseerctl` program: hands over to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    overseerctl::cli::main()
}
