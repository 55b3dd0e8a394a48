//! What the importer makes of real exported files, of small ones built here, and of hostile ones.
//!
//! The larger inputs lie beside the repository, in `shared/models`; without them those tests say so and pass.

#[path = "common/build.rs"]
mod build;
#[path = "common/npz.rs"]
mod npz;

use berth_compiler::import::{self, ImportError, onnx};
use berth_ir::DType;
use berth_ir::expr::Binding;
use berth_ir::graph::{Content, Graph, ValueId};
use build::{Builder, attribute};
use prost::Message;
use std::path::{Path, PathBuf};

fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    if path.is_dir() {
        return Some(path.canonicalize().unwrap());
    }
    eprintln!("shared/models is not beside the repository: skipped");
    None
}

/// The models of a folder that hold no control flow.
fn models(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "onnx") && !p.ends_with("llama_merged_if.onnx"));
    files.sort();
    files
}

/// Sizes of dims from the shapes of the given inputs.
fn binding_of(model: &import::Model, arrays: &[npz::Entry]) -> Binding {
    let mut binding = Binding::new();
    for port in model.inputs() {
        let array = arrays.iter().find(|a| a.name.strip_prefix("in:") == Some(&port.name)).unwrap();
        for (dim, size) in port.shape.iter().flatten().zip(&array.shape) {
            if let Some(name) = dim.as_dim() {
                binding.insert(name.to_owned(), *size);
            }
        }
    }
    binding
}

fn bind(dims: &[(&str, u64)]) -> Binding {
    dims.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
}

fn id_of(graph: &Graph, name: &str) -> ValueId {
    let at = graph.values.iter().position(|v| v.name == name).unwrap_or_else(|| panic!("no value `{name}`"));
    ValueId(u32::try_from(at).unwrap())
}

fn shape_of(graph: &Graph, name: &str) -> String {
    import::ops::show(&graph.value(id_of(graph, name)).shape)
}

fn sizes(graph: &Graph, id: ValueId) -> Vec<i128> {
    let value = graph.value(id);
    value.shape.iter().map(|e| e.as_constant().unwrap_or_else(|| panic!("`{}` has {e}", value.name))).collect()
}

/// No dim is left, and what is known of contents agrees with the shapes.
fn assert_exact(graph: &Graph) {
    for value in &graph.values {
        for size in &value.shape {
            assert!(size.as_constant().is_some(), "`{}` has the size {size}", value.name);
        }
        match &value.content {
            Content::Known(elements) => {
                assert_eq!(Some(elements.len() as i128), value.elements().as_constant(), "`{}`", value.name);
            }
            Content::Stored(stored) => {
                let elements = u64::try_from(value.elements().as_constant().unwrap()).unwrap();
                assert_eq!(Some(stored.bytes), value.dtype.bytes(elements), "`{}`", value.name);
            }
            _ => {}
        }
    }
    for op in &graph.ops {
        assert!(op.work.flops.as_constant().is_some_and(|f| f >= 0), "`{}` does {}", op.name, op.work.flops);
    }
}

#[test]
fn outputs_are_as_large_as_measured() {
    let Some(folder) = shared() else { return };
    let mut checked = 0;
    for path in models(&folder) {
        let arrays = path.with_extension("npz");
        if !arrays.exists() {
            continue;
        }
        let arrays = npz::read(&arrays);
        let model = import::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let graph = model.graph(&binding_of(&model, &arrays)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_exact(&graph);
        assert_eq!(graph.assumptions, Vec::<String>::new(), "{}", path.display());
        for id in &graph.outputs {
            let name = &graph.value(*id).name;
            let array = arrays.iter().find(|a| a.name.strip_prefix("out:") == Some(name)).unwrap();
            let measured: Vec<i128> = array.shape.iter().map(|n| i128::from(*n)).collect();
            assert_eq!(sizes(&graph, *id), measured, "{} `{name}`", path.display());
            let width: u64 = array.dtype[2..].parse().unwrap();
            assert_eq!(graph.value(*id).dtype.bits(), Some(8 * width), "{} `{name}`", path.display());
        }
        checked += 1;
    }
    assert!(checked >= 15, "{checked} models");
}

#[test]
fn declared_shapes_are_not_needed() {
    let Some(folder) = shared() else { return };
    for path in models(&folder).into_iter().chain(models(&folder.join("light"))) {
        let model = import::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let sizes: Binding = model.input_dims().into_iter().zip(2..).map(|(d, n)| (d.name, n)).collect();
        // The length of the mask follows from its parts.
        let sizes: Binding = sizes.into_iter().filter(|(name, _)| !name.contains("_plus_")).collect();
        for binding in [Binding::new(), sizes] {
            let graph = model.graph(&binding).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            if !binding.is_empty() {
                assert_exact(&graph);
            }
            let mut proto = model.proto().clone();
            proto.graph.as_mut().unwrap().value_info.clear();
            let stripped = import::Model::decode(proto.encode_to_vec().into(), path.clone()).unwrap();
            let stripped = stripped.graph(&binding).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(graph.values.len(), stripped.values.len());
            for (a, b) in graph.values.iter().zip(&stripped.values) {
                assert_eq!((&a.name, a.dtype, &a.shape), (&b.name, b.dtype, &b.shape), "{}", path.display());
            }
        }
    }
}

#[test]
fn hostile_files_end_in_a_clear_error() {
    let Some(folder) = shared() else { return };
    let index = std::fs::read_to_string(folder.join("hostile/index.json")).unwrap();
    let names: Vec<&str> = index.lines().filter_map(|l| l.trim().strip_prefix('"')?.split('"').next()).collect();
    assert!(names.len() > 50);
    // Absent data can be planned, a declared shape stands in for an unknown operator, order can be found.
    let fine = ["ext_ok_control", "ext_missing", "not_topological", "unknown_op", "deep_if"];
    for name in names {
        let path = folder.join("hostile").join(name).with_extension("onnx");
        let result = import::open(&path).and_then(|model| model.graph(&Binding::new()));
        match result {
            Ok(graph) => {
                assert!(fine.contains(&name), "{name} was taken");
                assert!(!graph.outputs.is_empty());
            }
            Err(error) => {
                assert!(!fine.contains(&name), "{name}: {error}");
                assert!(error.to_string().len() > 20, "{name}: {error}");
            }
        }
    }
}

#[test]
fn decoders_need_no_length_of_the_mask() {
    let Some(folder) = shared() else { return };
    let model = import::open(&folder.join("llama3_8b_decode.onnx")).unwrap();
    let graph = model.graph(&bind(&[("batch", 1), ("past", 127), ("seq", 1)])).unwrap();
    assert_exact(&graph);
    let error = model.graph(&bind(&[("batch", 1), ("past", 127), ("seq", 1), ("past_plus_seq", 129)])).unwrap_err();
    assert!(matches!(&error, ImportError::Contradiction { bound: 129, .. }), "{error}");
    let weights = graph.values.iter().filter_map(|v| match &v.content {
        Content::Stored(stored) => Some(stored),
        _ => None,
    });
    let (absent, bytes) = weights.filter(|s| !s.present).fold((0, 0), |(n, all), s| (n + 1, all + s.bytes));
    assert!(absent > 200 && bytes > 14 << 30, "{absent} absent, {bytes} bytes");
    // Symbolic sizes stay exact and recognisable.
    let graph = model.graph(&Binding::new()).unwrap();
    let present = graph.value(graph.outputs[1]);
    assert_eq!(import::ops::show(&present.shape), "[batch, 8, past + seq, 128]");
}

/// Each past and new part are joined, then attended with a mask of their joint length.
#[test]
fn operators_relate_dims() {
    let mut b = Builder::new(20);
    b.input("past", DType::F32, &["batch", "cached"]).input("new", DType::F32, &["batch", "fresh"]);
    b.input("mask", DType::F32, &["batch", "total"]).output("y");
    b.node("Concat", &["past", "new"], &["all"], vec![attribute("axis", 1)]);
    b.node("Add", &["all", "mask"], &["y"], vec![]);
    let model = b.model();
    let graph = model.graph(&Binding::new()).unwrap();
    assert_eq!(shape_of(&graph, "y"), "[batch, cached + fresh]");
    assert_eq!(shape_of(&graph, "mask"), "[batch, cached + fresh]");
    assert_eq!(graph.assumptions.len(), 1);
    let graph = model.graph(&bind(&[("batch", 2), ("cached", 127), ("fresh", 1)])).unwrap();
    assert_eq!(shape_of(&graph, "mask"), "[2, 128]");
    let error = model.graph(&bind(&[("cached", 127), ("fresh", 1), ("total", 129)])).unwrap_err().to_string();
    for part in ["Add", "`all`", "`mask`", "128 and 129", "bound", "total=129"] {
        assert!(error.contains(part), "{error}");
    }
    let error = model.graph(&bind(&[("other", 1)])).unwrap_err().to_string();
    assert!(error.contains("`other`") && error.contains("cached"), "{error}");
}

/// The shape arithmetic that exporters write around a Reshape.
#[test]
fn shape_arithmetic_folds() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["n", "m"]).output("y").output("z");
    b.ints("zero", &[0]).ints("one", &[1]).ints("minus", &[-1]).ints("end", &[i64::MAX]);
    b.node("Shape", &["x"], &["s"], vec![]);
    b.node("Gather", &["s", "zero"], &["n"], vec![]);
    b.node("Slice", &["s", "one", "end"], &["m"], vec![]);
    b.node("Mul", &["n", "m"], &["nm"], vec![]);
    b.node("Concat", &["nm", "one"], &["to"], vec![attribute("axis", 0)]);
    b.node("Reshape", &["x", "to"], &["y"], vec![]);
    b.node("Concat", &["m", "minus"], &["turn"], vec![attribute("axis", 0)]);
    b.node("Reshape", &["x", "turn"], &["z"], vec![]);
    let graph = b.model().graph(&Binding::new()).unwrap();
    assert_eq!(shape_of(&graph, "y"), "[m*n, 1]");
    assert_eq!(shape_of(&graph, "z"), "[m, n]");
    assert!(matches!(&graph.value(id_of(&graph, "to")).content, Content::Known(_)));
}

#[test]
fn a_constant_is_no_operator_and_an_unread_result_is_not_computed() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["n", "4"]).output("y").output("k");
    let tensor = onnx::TensorProto { data_type: 1, dims: vec![4], raw_data: vec![0; 16].into(), ..Default::default() };
    let value =
        onnx::AttributeProto { name: "value".to_owned(), r#type: 4, t: Some(Box::new(tensor)), ..Default::default() };
    b.node("Constant", &[], &["scale"], vec![value]);
    b.node("LayerNormalization", &["x", "scale"], &["y", "mean", "spread"], vec![]);
    b.node("Shape", &["x"], &["k"], vec![]);
    let graph = b.model().graph(&Binding::new()).unwrap();
    assert_eq!(graph.ops.len(), 2);
    assert_eq!(graph.ops[0].outputs.len(), 1);
    assert!(graph.values.iter().all(|v| v.name != "mean"));
    // Its bytes are where the file has them.
    assert!(matches!(&graph.value(id_of(&graph, "scale")).content, Content::Stored(s) if s.bytes == 16));
    let elements = &graph.value(id_of(&graph, "k")).content;
    assert!(matches!(elements, Content::Known(e) if e[0].to_string() == "n"));
}

#[test]
fn sizes_that_data_decide_are_bounded() {
    let mut b = Builder::new(17);
    b.input("x", DType::Bool, &["n", "4"]).output("y");
    b.node("NonZero", &["x"], &["y"], vec![]);
    let graph = b.model().graph(&Binding::new()).unwrap();
    assert_eq!(shape_of(&graph, "y"), "[2, y:1]");
    assert_eq!(graph.data_dims.len(), 1);
    assert_eq!(graph.data_dims[0].1.to_string(), "4*n");
}

#[test]
fn pools_without_pads_count_the_last_window_as_the_engine_does() {
    let attribute_of = |name: &str, r#type, s: &[u8], ints: &[i64]| onnx::AttributeProto {
        name: name.to_owned(),
        r#type,
        s: Some(s.to_vec().into()),
        ints: ints.to_vec(),
        ..Default::default()
    };
    // Sizes that ONNX Runtime 1.31.1 gives; the specification's formula for VALID says 5 of the first.
    for (size, kernel, stride, dilation, gives) in
        [(11, 2, 2, 1, 6), (8, 1, 3, 1, 3), (8, 2, 4, 1, 2), (11, 1, 4, 1, 3), (11, 2, 3, 2, 4), (8, 4, 2, 2, 2)]
    {
        let mut b = Builder::new(22);
        b.input("x", DType::F32, &["1", "1", &format!("{size}")]).output("y");
        let attributes = vec![
            attribute_of("auto_pad", 3, b"VALID", &[]),
            attribute_of("kernel_shape", 7, b"", &[kernel]),
            attribute_of("strides", 7, b"", &[stride]),
            attribute_of("dilations", 7, b"", &[dilation]),
            attribute("ceil_mode", 1),
        ];
        b.node("MaxPool", &["x"], &["y"], attributes);
        let graph = b.model().graph(&Binding::new()).unwrap();
        assert_eq!(shape_of(&graph, "y"), format!("[1, 1, {gives}]"), "{size} {kernel} {stride} {dilation}");
    }
}

#[test]
fn nothing_is_reshaped_into_nothing() {
    let reshaped = |from: &[&str], to: &[i64]| {
        let mut b = Builder::new(21);
        b.input("x", DType::F32, from).ints("to", to).output("y");
        b.node("Reshape", &["x", "to"], &["y"], vec![attribute("allowzero", 1)]);
        b.model().graph(&Binding::new()).map(|graph| shape_of(&graph, "y"))
    };
    assert_eq!(reshaped(&["0", "3"], &[0, 5]).unwrap(), "[0, 5]");
    assert_eq!(reshaped(&["0", "3"], &[5, 0, 2]).unwrap(), "[5, 0, 2]");
    assert!(reshaped(&["0", "3"], &[4]).is_err());
}

#[test]
fn ellipses_stand_for_as_many_axes_in_each_term() {
    let product = |equation: &str, a: &[&str], b: &[&str]| {
        let mut model = Builder::new(21);
        model.input("a", DType::F32, a).input("b", DType::F32, b).output("y");
        let s = Some(equation.as_bytes().to_vec().into());
        let equation = onnx::AttributeProto { name: "equation".to_owned(), r#type: 3, s, ..Default::default() };
        model.node("Einsum", &["a", "b"], &["y"], vec![equation]);
        model.model().graph(&Binding::new()).map(|graph| shape_of(&graph, "y"))
    };
    assert_eq!(product("...ij,...jk->...ik", &["1", "2", "3"], &["5", "3", "4"]).unwrap(), "[5, 2, 4]");
    assert_eq!(product("...ij,jk->...ik", &["n", "2", "3"], &["3", "4"]).unwrap(), "[n, 2, 4]");
    // The engine refuses the first; the second ends its process.
    for a in [&["5", "1", "2", "3"][..], &["2", "3"]] {
        let error = product("...ij,...jk->...ik", a, &["7", "3", "4"]).unwrap_err().to_string();
        assert!(error.contains("axes"), "{error}");
    }
}

#[test]
fn an_unknown_operator_is_refused_by_name_or_taken_as_declared() {
    let mut b = Builder::new(20);
    b.input("x", DType::F32, &["n"]).output("y");
    b.node("Frobnicate", &["x"], &["y"], vec![]);
    let error = b.model().graph(&Binding::new()).unwrap_err().to_string();
    for part in ["Frobnicate", "`y`", "20"] {
        assert!(error.contains(part), "{error}");
    }
    b.declare("y", DType::F32, &["n", "7"]);
    let graph = b.model().graph(&bind(&[("n", 3)])).unwrap();
    assert_eq!(shape_of(&graph, "y"), "[3, 7]");
    assert!(graph.assumptions[0].contains("Frobnicate"), "{:?}", graph.assumptions);
}

#[test]
fn a_declared_shape_that_is_wrong_is_an_error() {
    let mut b = Builder::new(20);
    b.input("x", DType::F32, &["n", "4"]).output("y").declare("y", DType::F32, &["n", "5"]);
    b.node("Relu", &["x"], &["y"], vec![]);
    let error = b.model().graph(&Binding::new()).unwrap_err().to_string();
    assert!(error.contains("[n, 5]") && error.contains("[n, 4]") && error.contains("Relu"), "{error}");
}

/// Every prefix of a model, and many single changed bytes: an error or a graph, never a panic.
#[test]
fn damaged_files_do_no_harm() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["n", "past + n"]).output("y").ints("to", &[-1, 2]).ints("axes", &[0]);
    b.node("Unsqueeze", &["x", "axes"], &["u"], vec![]);
    b.node("Reshape", &["u", "to"], &["r"], vec![]);
    b.node("Softmax", &["r"], &["y"], vec![attribute("axis", -1)]);
    let bytes = b.bytes();
    let read = |bytes: Vec<u8>| {
        let _ = import::Model::decode(bytes.into(), PathBuf::from("/nowhere/model.onnx"))
            .and_then(|model| model.graph(&Binding::new()));
    };
    for end in 0..bytes.len() {
        read(bytes[..end].to_vec());
        for change in [1, 0x80, 0xff, 0x3b] {
            let mut damaged = bytes.clone();
            damaged[end] ^= change;
            read(damaged);
        }
    }
}

/// Neither links nor what is no file are followed or waited for.
#[cfg(unix)]
#[test]
fn external_data_stays_in_the_folder() {
    let folder = std::env::temp_dir().join(format!("berth-import-{}", std::process::id()));
    let model = folder.join("model");
    std::fs::create_dir_all(&model).unwrap();
    std::fs::write(folder.join("outside.bin"), [0; 16]).unwrap();
    std::fs::write(model.join("inside.bin"), [0; 16]).unwrap();
    std::os::unix::fs::symlink(folder.join("outside.bin"), model.join("out.bin")).unwrap();
    std::os::unix::fs::symlink("inside.bin", model.join("in.bin")).unwrap();
    std::fs::create_dir(model.join("folder")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(model.join("pipe")).status();
    assert!(pipe.is_ok_and(|status| status.success()), "no pipe could be made");
    let read = |location: &str| {
        let mut b = Builder::new(20);
        b.input("x", DType::F32, &["4"]).output("y").external("w", &[4], location);
        b.node("Add", &["x", "w"], &["y"], vec![]);
        std::fs::write(model.join("m.onnx"), b.bytes()).unwrap();
        let graph = import::open(&model.join("m.onnx"))?.graph(&Binding::new())?;
        match &graph.value(id_of(&graph, "w")).content {
            Content::Stored(stored) => Ok(stored.clone()),
            other => panic!("{other:?}"),
        }
    };
    assert!(read("inside.bin").unwrap().present);
    assert_eq!(read("./inside.bin").unwrap().file, "inside.bin");
    assert!(!read("none.bin").unwrap().present);
    for location in ["out.bin", "in.bin", "folder", "pipe", "../outside.bin", "/dev/zero", "", "."] {
        let error: ImportError = read(location).unwrap_err();
        assert!(matches!(&error, ImportError::External { .. }), "{location}: {error}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
