//! Generates the binary form's messages from `proto/program.proto`, without a protoc binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/program.proto");
    let files = protox::compile(["program.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
