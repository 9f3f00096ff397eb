//! Compiles our own messages, without a system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTOS: [&str; 3] = [
        "outrigger/config/v1/extensions.proto",
        "outrigger/control/v1/identity.proto",
        "outrigger/control/v1/refusal.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
