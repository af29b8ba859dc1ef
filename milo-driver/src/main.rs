//! The `milo-driver` program: hands over to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    milo_driver::main()
}
