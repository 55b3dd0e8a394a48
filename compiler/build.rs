//! Turns `proto/onnx.proto` into Rust, without a protoc binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/onnx.proto");
    let descriptors = protox::compile(["proto/onnx.proto"], ["proto"])?;
    prost_build::Config::new()
        // Slices of the mapped file instead of copies.
        .bytes([
            ".onnx.TensorProto.raw_data",
            ".onnx.TensorProto.float_data",
            ".onnx.TensorProto.double_data",
            ".onnx.AttributeProto.s",
            ".onnx.AttributeProto.strings",
        ])
        // Most attributes are a number: they shall not be as large as a graph.
        .boxed(".onnx.AttributeProto.t")
        .boxed(".onnx.AttributeProto.g")
        .boxed(".onnx.AttributeProto.tp")
        .boxed(".onnx.AttributeProto.sparse_tensor")
        .compile_fds(descriptors)?;
    Ok(())
}
