//! Compiles the wire formats below `proto/` into Rust, servers and clients, without a `protoc` binary.

use std::error::Error;

/// Every file that is compiled, by its path below `proto/`. What they import comes along.
const FILES: [&str; 6] = [
    "plugins/base/proto/base.proto",
    "plugins/drivers/proto/driver.proto",
    "plugins/shared/structs/proto/recoverable_error.proto",
    "plugin/grpc_broker.proto",
    "plugin/grpc_controller.proto",
    "plugin/grpc_stdio.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(FILES.iter().chain(&["google/rpc/status.proto"]), ["proto"])?;
    tonic_prost_build::configure()
        .include_file("milo_proto.rs")
        .compile_fds(files)?;
    Ok(())
}
