//! ONNX Runtime as the engine, loaded at run time.
//!
//! Sessions that keep their weights are made otherwise: with graph optimisation and packed weights, which is what makes
//! them fast, and why their bits are those of the whole task only.
//!
//! The `ort` crate finds the library and its C table; everything else goes through that table, because only it binds
//! tensors at addresses that we choose, takes our allocator, and lets a run be ended. The settings are the exact ones:
//! no graph optimisation, no prepacked weights, no memory pattern, operators one after another, one thread pool of a
//! fixed size that does not spin. With them a task's bits do not depend on where the model was cut.
//!
//! The library knows one environment per process, with one thread pool and one allocator for the CPU. So all engines
//! of a process share a `World`, which stays until the process ends, and their runs take turns in it.
#![allow(unsafe_code)] // The engine's one file that calls C.

use super::allocator::{Allocator, Ledger, Tally};
pub use super::library::{VARIABLE, find_library};
use super::{
    ALIGNMENT, BindingId, Engine, EngineError, EngineOptions, KEPT_FILE, Keeping, Measured, Port, SessionId, StopFlag,
    Stopper, TaskCode,
};
use ::ort::api as c;
use ::ort::sys;
use berth_ir::DType;
use bytes::Bytes;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The versions of the library that this file is written for.
pub const WANTED: &str = "1.24 or newer, below 2";

const ALIGN: usize = ALIGNMENT as usize;

// ---- Loading the library ----

/// Loads the library and its table of functions, and says its version. The first one loaded is the process's for good.
fn load(path: &Path) -> Result<String, EngineError> {
    static LOADED: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut loaded = lock(&LOADED);
    let unusable = |reason: String| EngineError::Library { path: path.to_path_buf(), reason };
    let odd = |found: String| EngineError::Version { path: path.to_path_buf(), found, wanted: WANTED };
    if let Some(first) = &*loaded {
        return if first == path {
            version(path).ok_or_else(|| unusable("it does not say its version".into()))
        } else {
            Err(EngineError::AlreadyOpen { running: first.display().to_string(), asked: path.display().to_string() })
        };
    }
    // The crate asserts on libraries that are odd enough; a panic there must not become ours.
    let outcome = std::panic::catch_unwind(|| ::ort::init_from(path).map(|_builder| c()).map(|_table| ()));
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(::ort::LoadDynamicError::BadVersion { version_str, .. })) => {
            return Err(odd(version_str));
        }
        Ok(Err(other)) => return Err(unusable(other.to_string())),
        Err(_panic) => return Err(unusable("it gives no table of functions".into())),
    }
    let version = version(path).ok_or_else(|| unusable("it does not say its version".into()))?;
    if !version.starts_with("1.") {
        return Err(odd(version));
    }
    *loaded = Some(path.to_path_buf());
    Ok(version)
}

/// The version that a library that is already loaded says it has; the crate does not pass it on.
fn version(path: &Path) -> Option<String> {
    let name = CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: the path is that of the loaded library, so no code runs on opening it again, and it stays loaded after
    // the handle is closed. The function has this type in every version, and gives static data.
    unsafe {
        let library = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
        if library.is_null() {
            return None;
        }
        let symbol = libc::dlsym(library, c"OrtGetApiBase".as_ptr());
        let version = (!symbol.is_null()).then(|| {
            type Base = unsafe extern "system" fn() -> *const sys::OrtApiBase;
            let base = std::mem::transmute::<*mut c_void, Base>(symbol)();
            CStr::from_ptr(((*base).GetVersionString)()).to_string_lossy().into_owned()
        });
        libc::dlclose(library);
        version
    }
}

// ---- C objects and statuses ----

/// An object of the library, released when dropped.
struct Owned<T> {
    ptr: *mut T,
    release: unsafe extern "system" fn(*mut T),
}

// SAFETY: the library's objects are tied to no thread.
unsafe impl<T> Send for Owned<T> {}
// SAFETY: sharing one hands out its address only; who may call what at once is the care of each unsafe call.
unsafe impl<T> Sync for Owned<T> {}

impl<T> Owned<T> {
    /// Makes an object with a function of the table that writes its address.
    fn make(
        release: unsafe extern "system" fn(*mut T),
        create: impl FnOnce(*mut *mut T) -> sys::OrtStatusPtr,
    ) -> Result<Self, String> {
        let mut ptr = null_mut();
        check(create(&mut ptr))?;
        if ptr.is_null() { Err("it gave no object and no reason".into()) } else { Ok(Owned { ptr, release }) }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from the function that pairs with `release`, and nothing uses it after this.
        unsafe { (self.release)(self.ptr) }
    }
}

/// Turns a status into its text.
fn check(status: sys::OrtStatusPtr) -> Result<(), String> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: a status that is not null is a live object, whose text lives as long; we copy the text, then release it.
    unsafe {
        let text = CStr::from_ptr((c().GetErrorMessage)(status.0)).to_string_lossy().into_owned();
        (c().ReleaseStatus)(status.0);
        Err(text)
    }
}

pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the mutexes guard is whole at every step, so another thread's panic does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- The environment, one per process ----

/// What all engines of the process share.
struct World {
    library: PathBuf,
    version: String,
    threads: usize,
    spin: bool,
    /// Held while the library runs or builds, so that every request for memory belongs to one known run or to none.
    turn: Mutex<()>,
    env: Owned<sys::OrtEnv>,
    info: Owned<sys::OrtMemoryInfo>,
    allocator: &'static Allocator,
}

impl World {
    /// The process's world, made at the first call that succeeds.
    fn open(library: &Path, threads: usize, spin: bool) -> Result<&'static World, EngineError> {
        static WORLD: Mutex<Option<&'static World>> = Mutex::new(None);
        let mut current = lock(&WORLD);
        let version = load(library)?;
        if let Some(world) = *current {
            let said = |threads, spin| format!("{threads} threads that {}", if spin { "spin" } else { "sleep" });
            let (running, asked) = (said(world.threads, world.spin), said(threads, spin));
            return if running == asked { Ok(world) } else { Err(EngineError::AlreadyOpen { running, asked }) };
        }
        let unusable = |reason| EngineError::Library { path: library.to_path_buf(), reason };
        Ok(*current.insert(Box::leak(Box::new(World::build(library, version, threads, spin).map_err(unusable)?))))
    }

    fn build(library: &Path, version: String, threads: usize, spin: bool) -> Result<World, String> {
        let count = i32::try_from(threads).map_err(|_| format!("{threads} threads are too many"))?;
        let c = c();
        // SAFETY: every function of the table gets live objects of its own kind and a place for its result; names are
        // literals that end in zero, and the library copies them.
        unsafe {
            let pool = Owned::make(c.ReleaseThreadingOptions, |out| (c.CreateThreadingOptions)(out))?;
            check((c.SetGlobalIntraOpNumThreads)(pool.ptr, count))?;
            check((c.SetGlobalInterOpNumThreads)(pool.ptr, 1))?;
            check((c.SetGlobalSpinControl)(pool.ptr, i32::from(spin)))?;
            // Its log goes to stderr; what it reports as a status is reported once, by us.
            let level = sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_FATAL;
            let env = Owned::make(c.ReleaseEnv, |out| {
                (c.CreateEnvWithGlobalThreadPools)(level, c"berth".as_ptr(), pool.ptr, out)
            })?;
            check((c.DisableTelemetryEvents)(env.ptr))?;
            let (kind, place) = (sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeDefault);
            let info = Owned::make(c.ReleaseMemoryInfo, |out| (c.CreateCpuMemoryInfo)(kind, place, out))?;
            // The environment may hold on to it until the process ends.
            let allocator: &'static Allocator = Box::leak(Box::new(Allocator::new(info.ptr)));
            check((c.RegisterAllocator)(env.ptr, (&raw const *allocator).cast_mut().cast()))?;
            Ok(World {
                library: library.to_path_buf(),
                version,
                threads,
                spin,
                turn: Mutex::new(()),
                env,
                info,
                allocator,
            })
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.allocator.ledger()
    }
}

// ---- The engine ----

struct Session {
    object: Owned<sys::OrtSession>,
}

struct Binding {
    task: Arc<str>,
    session: SessionId,
    object: Owned<sys::OrtIoBinding>,
    /// Outputs whose size is found.
    found: Vec<Found>,
    /// The shapes of the last run, by place in `found`.
    shapes: Vec<Vec<u64>>,
}

/// An output whose size a run finds.
struct Found {
    /// Among the outputs.
    index: usize,
    name: CString,
    port: Port,
    /// Where its bytes go; an address, for threads.
    address: usize,
}

/// The run options that all runs of an engine use; they carry the flag that ends a run.
struct RunOptions {
    object: Owned<sys::OrtRunOptions>,
    /// Held while the flag is set, here and in the object.
    setting: Mutex<()>,
    stop: AtomicBool,
}

impl StopFlag for RunOptions {
    fn set(&self, stop: bool) {
        let _turn = lock(&self.setting);
        self.stop.store(stop, Ordering::SeqCst);
        let (ptr, c) = (self.object.ptr, c());
        // SAFETY: a live object; setters take turns, and the library provides both for use beside a run that reads it.
        let status = unsafe { if stop { (c.RunOptionsSetTerminate)(ptr) } else { (c.RunOptionsUnsetTerminate)(ptr) } };
        // Neither function has a way to fail; if one did, the flag of ours is still seen between runs.
        let _ = check(status);
    }
}

/// ONNX Runtime with the exact settings; one queue.
pub struct OrtEngine {
    // Dropped in this order: bindings before their sessions, sessions before the environment.
    bindings: Vec<Option<Binding>>,
    sessions: Vec<Option<Session>>,
    by_model: HashMap<Bytes, SessionId>,
    options: Arc<RunOptions>,
    world: &'static World,
}

impl std::fmt::Debug for OrtEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (library, threads) = (&self.world.library, self.world.threads);
        f.debug_struct("OrtEngine").field("library", library).field("threads", &threads).finish_non_exhaustive()
    }
}

impl OrtEngine {
    /// Opens the engine. A second one in the same process shares the first one's library and threads, and must ask for
    /// the same.
    pub fn open(options: &EngineOptions) -> Result<OrtEngine, EngineError> {
        let library = find_library(options.library.as_deref())?;
        let world = World::open(&library, options.threads.max(1), options.spin)?;
        // SAFETY: writes the address of a new object.
        let object = Owned::make(c().ReleaseRunOptions, |out| unsafe { (c().CreateRunOptions)(out) })
            .map_err(|reason| EngineError::Library { path: library, reason })?;
        let options = Arc::new(RunOptions { object, setting: Mutex::new(()), stop: AtomicBool::new(false) });
        Ok(OrtEngine { bindings: Vec::new(), sessions: Vec::new(), by_model: HashMap::new(), options, world })
    }

    /// The library's file.
    pub fn library(&self) -> &Path {
        &self.world.library
    }

    /// The library's version, such as `1.31.1`. Measured numbers and bits belong to one version.
    pub fn version(&self) -> &str {
        &self.world.version
    }

    fn session(&self, id: SessionId) -> Result<&Session, EngineError> {
        self.sessions
            .get(id.0 as usize)
            .and_then(Option::as_ref)
            .ok_or_else(|| EngineError::Unknown(format!("session {}", id.0)))
    }

    fn binding(&self, id: BindingId) -> Result<&Binding, EngineError> {
        let slot = self.bindings.get(id.0 as usize).and_then(Option::as_ref);
        slot.ok_or_else(|| EngineError::Unknown(format!("binding {}", id.0)))
    }

    /// Makes a session: the exact way, or with weights of its own.
    fn create_session(&self, model: &Bytes, weights: Option<&[u8]>) -> Result<Session, String> {
        let c = c();
        // SAFETY: every function gets live objects of its own kind; strings are literals that end in zero, and they
        // and the model's bytes are copied before the calls return, as the weights are before the session is made.
        unsafe {
            let options = Owned::make(c.ReleaseSessionOptions, |out| (c.CreateSessionOptions)(out))?;
            let (level, packs) = match weights {
                None => (sys::GraphOptimizationLevel::ORT_DISABLE_ALL, c"1"),
                Some(_) => (sys::GraphOptimizationLevel::ORT_ENABLE_ALL, c"0"),
            };
            check((c.SetSessionGraphOptimizationLevel)(options.ptr, level))?;
            check((c.SetSessionExecutionMode)(options.ptr, sys::ExecutionMode::ORT_SEQUENTIAL))?;
            check((c.DisableMemPattern)(options.ptr))?;
            check((c.DisablePerSessionThreads)(options.ptr))?;
            for (key, value) in [(c"session.use_env_allocators", c"1"), (c"session.disable_prepacking", packs)] {
                check((c.AddSessionConfigEntry)(options.ptr, key.as_ptr(), value.as_ptr()))?;
            }
            let name = CString::new(KEPT_FILE).map_err(|e| e.to_string())?;
            if let Some(weights) = weights {
                let (names, blocks) = ([name.as_ptr()], [weights.as_ptr().cast::<std::ffi::c_char>().cast_mut()]);
                let lengths = [weights.len()];
                check((c.AddExternalInitializersFromMemory)(
                    options.ptr,
                    names.as_ptr(),
                    blocks.as_ptr(),
                    lengths.as_ptr(),
                    names.len(),
                ))?;
            }
            let (data, length) = (model.as_ptr().cast(), model.len());
            let object = Owned::make(c.ReleaseSession, |out| {
                (c.CreateSessionFromArray)(self.world.env.ptr, data, length, options.ptr, out)
            })?;
            Ok(Session { object })
        }
    }

    fn add(&mut self, session: Session, code: &TaskCode) -> Result<SessionId, EngineError> {
        let too_many = || EngineError::Ports { task: code.name.clone(), what: "too many sessions".to_owned() };
        let id = SessionId(u32::try_from(self.sessions.len()).map_err(|_| too_many())?);
        self.sessions.push(Some(session));
        Ok(id)
    }

    /// Ties every port; on an error some may be tied and the binding must not be run.
    fn tie(
        &self,
        binding: &Owned<sys::OrtIoBinding>,
        code: &TaskCode,
        inputs: &[*mut u8],
        outputs: &[*mut u8],
    ) -> Result<(), EngineError> {
        let wrong = |what: String| EngineError::Ports { task: code.name.clone(), what };
        for (kind, ports, addresses) in [("inputs", &code.inputs, inputs), ("outputs", &code.outputs, outputs)] {
            if ports.len() != addresses.len() {
                return Err(wrong(format!("{} addresses for {} {kind}", addresses.len(), ports.len())));
            }
        }
        let failed = |status| EngineError::Engine { task: code.name.clone(), step: "bind its ports", status };
        let c = c();
        let ports = code.inputs.iter().zip(inputs).map(|p| (p, c.BindInput));
        for ((port, &address), bind) in ports.chain(code.outputs.iter().zip(outputs).map(|p| (p, c.BindOutput))) {
            let name = CString::new(port.name.as_str()).map_err(|_| wrong(format!("the name {:?}", port.name)))?;
            if port.found {
                self.leave_open(binding, &name).map_err(failed)?;
                continue;
            }
            let value = self.tensor(port, address).map_err(&wrong)?;
            // SAFETY: live objects; the binding takes a share in the value, so ours can be released.
            check(unsafe { bind(binding.ptr, name.as_ptr(), value.ptr) }).map_err(failed)?;
        }
        Ok(())
    }

    /// Lets the library make an output itself; what it made before is released.
    fn leave_open(&self, binding: &Owned<sys::OrtIoBinding>, name: &CStr) -> Result<(), String> {
        // SAFETY: live objects; the name is copied.
        check(unsafe { (c().BindOutputToDevice)(binding.ptr, name.as_ptr(), self.world.info.ptr) })
    }

    /// Copies the outputs that the library made to where they belong, and says their shapes.
    ///
    /// # Safety
    /// A run of this binding has just ended well, and each address is valid for writes of its port's bytes.
    unsafe fn take_found(&self, binding: &Binding) -> Result<Vec<Vec<u64>>, EngineError> {
        let failed = |status| EngineError::Engine { task: binding.task.to_string(), step: "take its outputs", status };
        let c = c();
        let mut shapes = Vec::with_capacity(binding.found.len());
        // SAFETY: live objects and places for the results. The list is freed by the allocator that gave it, each value
        // is released once; a tensor's data holds as many bytes as its type and shape say.
        unsafe {
            let mut allocator = null_mut();
            check((c.GetAllocatorWithDefaultOptions)(&mut allocator)).map_err(failed)?;
            let (mut list, mut count) = (null_mut(), 0);
            check((c.GetBoundOutputValues)(binding.object.ptr, allocator, &mut list, &mut count)).map_err(failed)?;
            let values: Vec<Owned<sys::OrtValue>> =
                (0..count).map(|n| Owned { ptr: *list.add(n), release: c.ReleaseValue }).collect();
            check((c.AllocatorFree)(allocator, list.cast())).map_err(failed)?;
            for found in &binding.found {
                let value = values.get(found.index).ok_or_else(|| failed("it made too few".into()))?;
                let info =
                    Owned::make(c.ReleaseTensorTypeAndShapeInfo, |out| (c.GetTensorTypeAndShape)(value.ptr, out))
                        .map_err(failed)?;
                let mut axes = 0;
                check((c.GetDimensionsCount)(info.ptr, &mut axes)).map_err(failed)?;
                let mut dims = vec![0i64; axes];
                check((c.GetDimensions)(info.ptr, dims.as_mut_ptr(), axes)).map_err(failed)?;
                let shape: Vec<u64> = dims.iter().map(|n| u64::try_from(*n).unwrap_or(u64::MAX)).collect();
                let real = Port { shape: shape.clone(), ..found.port.clone() };
                let (bytes, most) = (real.bytes(), found.port.bytes().unwrap_or(0));
                let Some(bytes) = bytes.filter(|bytes| *bytes <= most) else {
                    let (task, port) = (binding.task.to_string(), found.port.name.clone());
                    return Err(EngineError::TooLarge { task, port, shape, most_bytes: most });
                };
                let mut data = null_mut();
                check((c.GetTensorMutableData)(value.ptr, &mut data)).map_err(failed)?;
                if bytes > 0 {
                    std::ptr::copy_nonoverlapping(data.cast::<u8>(), found.address as *mut u8, bytes as usize);
                }
                shapes.push(shape);
            }
        }
        for found in &binding.found {
            self.leave_open(&binding.object, &found.name).map_err(failed)?;
        }
        Ok(shapes)
    }

    /// A tensor over memory that is not the library's.
    fn tensor(&self, port: &Port, address: *mut u8) -> Result<Owned<sys::OrtValue>, String> {
        let unsized_port = || format!("`{}` has no size in bytes that memory could hold", port.name);
        let length = port.bytes().and_then(|n| usize::try_from(n).ok()).ok_or_else(unsized_port)?;
        let shape: Result<Vec<i64>, _> = port.shape.iter().map(|axis| i64::try_from(*axis)).collect();
        let shape = shape.map_err(|_| unsized_port())?;
        let dtype = element_type(port.dtype).ok_or_else(unsized_port)?;
        if address.is_null() && length > 0 {
            return Err(format!("`{}` has no address", port.name));
        }
        // A tensor of no bytes still needs an address that is not null.
        let data = if length == 0 { null::<u8>().wrapping_add(ALIGN).cast_mut() } else { address };
        let c = c();
        // SAFETY: only describes the memory, nothing is read; the shape is copied.
        Owned::make(c.ReleaseValue, |out| unsafe {
            let (shape, axes) = (shape.as_ptr(), shape.len());
            (c.CreateTensorWithDataAsOrtValue)(self.world.info.ptr, data.cast(), length, shape, axes, dtype, out)
        })
    }

    /// Runs a binding with what memory there is, and says what it asked for.
    ///
    /// # Safety
    /// As [`Engine::run`].
    unsafe fn run_counted(
        &self,
        binding: &Binding,
        workspace: (*mut u8, usize),
    ) -> Result<(Tally, Vec<Vec<u64>>), EngineError> {
        let task = || binding.task.to_string();
        let stopped = || {
            self.options.set(false);
            EngineError::Stopped { task: task() }
        };
        if self.options.stop.load(Ordering::SeqCst) {
            return Err(stopped());
        }
        let session = self.session(binding.session)?.object.ptr;
        let _turn = lock(&self.world.turn);
        self.world.ledger().begin(workspace);
        // SAFETY: session and binding are live and belong together; the memory behind the binding and the workspace is
        // the caller's promise.
        let outcome = check(unsafe { (c().RunWithBinding)(session, self.options.object.ptr, binding.object.ptr) });
        // What the library made lies in the workspace, so it is taken out before that ends.
        let shapes = if outcome.is_ok() && !binding.found.is_empty() {
            // SAFETY: the run has just ended; the addresses are the caller's promise.
            unsafe { self.take_found(binding) }
        } else {
            Ok(Vec::new())
        };
        let tally = self.world.ledger().end();
        match outcome {
            Ok(()) => Ok((tally, shapes?)),
            Err(_) if self.options.stop.load(Ordering::SeqCst) => Err(stopped()),
            Err(status) => Err(EngineError::Engine { task: task(), step: "run it", status }),
        }
    }

    /// Measures a binding.
    ///
    /// # Safety
    /// As [`Engine::bind`].
    unsafe fn measure_bound(
        &self,
        id: BindingId,
        runs: u32,
        before: &mut dyn FnMut(),
    ) -> Result<Measured, EngineError> {
        let binding = self.binding(id)?;
        // With no workspace at all every request goes to the heap, and the placement says what would have sufficed.
        // SAFETY: the ports are the caller's promise; there is no workspace.
        let (tally, mut found) = unsafe { self.run_counted(binding, (null_mut(), 0))? };
        let mut peak = tally.peak;
        let mut workspace = vec![0_u8; peak + ALIGN];
        let mut nanos = Vec::with_capacity(runs as usize);
        for _ in 0..runs {
            let skip = workspace.as_ptr().align_offset(ALIGN);
            let range = &mut workspace[skip..];
            before();
            let began = Instant::now();
            // SAFETY: the ports as above; the workspace is this call's own.
            let (tally, shapes) = unsafe { self.run_counted(binding, (range.as_mut_ptr(), range.len()))? };
            found = shapes;
            nanos.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
            if tally.kept > 0 {
                return Err(EngineError::Kept { task: binding.task.to_string(), bytes: tally.kept as u64 });
            }
            peak = peak.max(tally.peak);
        }
        nanos.sort_unstable();
        let run_nanos = nanos.get(nanos.len() / 2).copied().unwrap_or(0);
        Ok(Measured { workspace_bytes: peak as u64, run_nanos, kept_bytes: 0, loading_bytes: 0, found })
    }

    /// Checks that the session's ports are those that the code names, in its order.
    fn check_ports(&self, session: &Session, code: &TaskCode) -> Result<(), EngineError> {
        let c = c();
        let (inputs, outputs) =
            ((c.SessionGetInputCount, c.SessionGetInputName), (c.SessionGetOutputCount, c.SessionGetOutputName));
        for (kind, ports, (count, name)) in [("inputs", &code.inputs, inputs), ("outputs", &code.outputs, outputs)] {
            let failed = |status| EngineError::Engine { task: code.name.clone(), step: "read its ports", status };
            let mut names = Vec::new();
            // SAFETY: live objects and places for the results; each name is copied, then freed by the allocator that
            // gave it.
            unsafe {
                let mut allocator = null_mut();
                check((c.GetAllocatorWithDefaultOptions)(&mut allocator)).map_err(failed)?;
                let mut many = 0;
                check(count(session.object.ptr, &mut many)).map_err(failed)?;
                for index in 0..many {
                    let mut text = null_mut();
                    check(name(session.object.ptr, index, allocator, &mut text)).map_err(failed)?;
                    names.push(CStr::from_ptr(text).to_string_lossy().into_owned());
                    check((c.AllocatorFree)(allocator, text.cast())).map_err(failed)?;
                }
            }
            if !ports.iter().map(|port| &port.name).eq(&names) {
                let wanted: Vec<&String> = ports.iter().map(|port| &port.name).collect();
                let what = format!("its model has the {kind} {names:?}, its description {wanted:?}");
                return Err(EngineError::Ports { task: code.name.clone(), what });
            }
        }
        Ok(())
    }
}

impl Engine for OrtEngine {
    fn prepare(&mut self, code: &TaskCode) -> Result<SessionId, EngineError> {
        if let Some(&id) = self.by_model.get(&code.model) {
            self.check_ports(self.session(id)?, code)?;
            return Ok(id);
        }
        let failed = |status| EngineError::Engine { task: code.name.clone(), step: "make a session", status };
        // Its lasting blocks must not land in the workspace of another engine's run.
        let turn = lock(&self.world.turn);
        let session = self.create_session(&code.model, None).map_err(failed)?;
        drop(turn);
        self.check_ports(&session, code)?;
        let id = self.add(session, code)?;
        self.by_model.insert(code.model.clone(), id);
        Ok(id)
    }

    unsafe fn keep(
        &mut self,
        code: &TaskCode,
        weights: &[u8],
        room: Option<(*mut u8, usize)>,
    ) -> Result<Keeping, EngineError> {
        let failed = |status| EngineError::Engine { task: code.name.clone(), step: "make a session", status };
        let memory = |what: String| EngineError::Memory { task: code.name.clone(), what };
        if weights.len() as u64 != code.kept {
            return Err(memory(format!("{} bytes of weights, {} are needed", weights.len(), code.kept)));
        }
        let (start, length) = room.unwrap_or((null_mut(), 0));
        aligned(start, length).map_err(memory)?;
        let turn = lock(&self.world.turn);
        self.world.ledger().begin_making((start, length));
        let made = self.create_session(&code.model, Some(weights));
        let (end, inside, most) = self.world.ledger().end_making();
        drop(turn);
        let session = made.map_err(failed)?;
        if room.is_some() && !inside {
            let (needed_bytes, planned_bytes) = (end as u64, length as u64);
            return Err(EngineError::Room { task: code.name.clone(), needed_bytes, planned_bytes });
        }
        self.check_ports(&session, code)?;
        let loading = most.saturating_sub(if room.is_some() { 0 } else { end }) as u64;
        Ok(Keeping { session: self.add(session, code)?, bytes: end as u64, loading })
    }

    fn forget(&mut self, session: SessionId) {
        for slot in &mut self.bindings {
            if slot.as_ref().is_some_and(|binding| binding.session == session) {
                *slot = None;
            }
        }
        if let Some(slot) = self.sessions.get_mut(session.0 as usize) {
            let _turn = lock(&self.world.turn);
            *slot = None;
        }
    }

    fn measure(
        &mut self,
        session: SessionId,
        code: &TaskCode,
        scratch: &mut [u8],
        runs: u32,
        before: &mut dyn FnMut(),
    ) -> Result<Measured, EngineError> {
        let memory = |what: String| EngineError::Memory { task: code.name.clone(), what };
        let layout = code.scratch_layout().and_then(|(o, n)| Some((o, usize::try_from(n).ok()?)));
        let (offsets, bytes) = layout.ok_or_else(|| memory("its ports have no size that memory could hold".into()))?;
        if scratch.len() < bytes {
            return Err(memory(format!("{} bytes of scratch, {bytes} are needed", scratch.len())));
        }
        aligned(scratch.as_ptr(), scratch.len()).map_err(memory)?;
        let start = scratch.as_mut_ptr();
        // The offsets are below `bytes`, which is the length of a slice.
        let addresses: Vec<*mut u8> = offsets.iter().map(|offset| start.wrapping_add(*offset as usize)).collect();
        for ((port, offset), bytes) in code.inputs.iter().zip(&offsets).filter_map(|p| Some((p, p.0.trial.as_ref()?))) {
            let place = scratch.get_mut(*offset as usize..).and_then(|place| place.get_mut(..bytes.len()));
            let wrong = || memory(format!("`{}` has a trial value of another size", port.name));
            place.ok_or_else(wrong)?.copy_from_slice(bytes);
        }
        let (inputs, outputs) = addresses.split_at(code.inputs.len());

        // SAFETY: the scratch is borrowed for all of this call, holds every port, and the ports do not overlap; the
        // binding goes before the call returns.
        unsafe {
            let id = self.bind(session, code, inputs, outputs)?;
            let measured = self.measure_bound(id, runs.max(1), before);
            self.unbind(id);
            measured
        }
    }

    unsafe fn bind(
        &mut self,
        session: SessionId,
        code: &TaskCode,
        inputs: &[*mut u8],
        outputs: &[*mut u8],
    ) -> Result<BindingId, EngineError> {
        let failed = |status| EngineError::Engine { task: code.name.clone(), step: "make a binding", status };
        let target = self.session(session)?.object.ptr;
        // SAFETY: a live session, which outlives its bindings in this engine.
        let object =
            Owned::make(c().ReleaseIoBinding, |out| unsafe { (c().CreateIoBinding)(target, out) }).map_err(failed)?;
        self.tie(&object, code, inputs, outputs)?;
        let found = found_ports(code, outputs).map_err(failed)?;
        let binding = Binding { task: code.name.as_str().into(), session, object, found, shapes: Vec::new() };
        let free = self.bindings.iter().position(Option::is_none).unwrap_or(self.bindings.len());
        let id = BindingId(u32::try_from(free).map_err(|_| failed("too many bindings".into()))?);
        match self.bindings.get_mut(free) {
            Some(slot) => *slot = Some(binding),
            None => self.bindings.push(Some(binding)),
        }
        Ok(id)
    }

    unsafe fn rebind(
        &mut self,
        binding: BindingId,
        code: &TaskCode,
        inputs: &[*mut u8],
        outputs: &[*mut u8],
    ) -> Result<(), EngineError> {
        let bound = self.binding(binding)?;
        let outcome = self.tie(&bound.object, code, inputs, outputs);
        let failed = |status| EngineError::Engine { task: code.name.clone(), step: "bind its ports", status };
        let found = found_ports(code, outputs).map_err(failed)?;
        match self.bindings.get_mut(binding.0 as usize) {
            Some(Some(bound)) if outcome.is_ok() => {
                bound.found = found;
                if *bound.task != *code.name {
                    bound.task = code.name.as_str().into();
                }
            }
            _ => self.unbind(binding),
        }
        outcome
    }

    fn unbind(&mut self, binding: BindingId) {
        if let Some(slot) = self.bindings.get_mut(binding.0 as usize) {
            *slot = None;
        }
    }

    unsafe fn run(&mut self, binding: BindingId, workspace: (*mut u8, usize)) -> Result<(), EngineError> {
        let bound = self.binding(binding)?;
        let task = || bound.task.to_string();
        aligned(workspace.0, workspace.1).map_err(|what| EngineError::Memory { task: task(), what })?;
        // SAFETY: passed on from the caller.
        let (tally, shapes) = unsafe { self.run_counted(bound, workspace)? };
        if let Some(asked) = tally.first_spill {
            return Err(EngineError::Spilled {
                task: task(),
                asked_bytes: asked as u64,
                planned_bytes: workspace.1 as u64,
                needed_bytes: tally.peak as u64,
            });
        }
        if tally.kept > 0 {
            return Err(EngineError::Kept { task: task(), bytes: tally.kept as u64 });
        }
        if let Some(Some(bound)) = self.bindings.get_mut(binding.0 as usize) {
            bound.shapes = shapes;
        }
        Ok(())
    }

    fn found(&self, binding: BindingId) -> &[Vec<u64>] {
        self.binding(binding).map_or(&[], |bound| &bound.shapes)
    }

    fn stopper(&self) -> Stopper {
        Stopper::new(self.options.clone())
    }
}

/// The outputs whose size a run finds, and where they go.
fn found_ports(code: &TaskCode, outputs: &[*mut u8]) -> Result<Vec<Found>, String> {
    let found = code.outputs.iter().zip(outputs).enumerate().filter(|(_, (port, _))| port.found);
    found
        .map(|(index, (port, address))| {
            let name = CString::new(port.name.as_str()).map_err(|_| format!("the name {:?}", port.name))?;
            Ok(Found { index, name, port: port.clone(), address: *address as usize })
        })
        .collect()
}

/// Says what is wrong with memory that should start on the alignment.
fn aligned(start: *const u8, bytes: usize) -> Result<(), String> {
    if bytes == 0 || (start as usize).is_multiple_of(ALIGN) {
        Ok(())
    } else {
        Err(format!("memory at {start:p} does not start on {ALIGN} bytes"))
    }
}

/// The library's number for an element type; strings have none that we could place.
fn element_type(dtype: DType) -> Option<sys::ONNXTensorElementDataType> {
    use sys::ONNXTensorElementDataType::*;
    Some(match dtype {
        DType::F32 => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DType::F64 => ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DType::F16 => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DType::BF16 => ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DType::F8E4M3FN => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN,
        DType::F8E4M3FNUZ => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FNUZ,
        DType::F8E5M2 => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2,
        DType::F8E5M2FNUZ => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2FNUZ,
        DType::F8E8M0 => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E8M0,
        DType::F4E2M1 => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT4E2M1,
        DType::I64 => ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DType::I32 => ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DType::I16 => ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DType::I8 => ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DType::I4 => ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4,
        DType::I2 => ONNX_TENSOR_ELEMENT_DATA_TYPE_INT2,
        DType::U64 => ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DType::U32 => ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DType::U16 => ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DType::U8 => ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DType::U4 => ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4,
        DType::U2 => ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT2,
        DType::Bool => ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DType::C64 => ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX64,
        DType::C128 => ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX128,
        DType::Str => return None,
    })
}
