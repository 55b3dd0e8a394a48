//! What the verifier can find, as data. Each kind belongs to a numbered rule.

use std::fmt;

/// The rules, by number: what must hold of every program that runs.
pub const RULES: &[(u8, &str)] = &[
    (1, "every name is legal, unique and known"),
    (2, "sizes agree over the whole range of dims: berths hold their tensors, runs bind every access whole"),
    (3, "two berths that share bytes are ordered: one's `until` has ended before the other is written"),
    (4, "berths lie inside their arena, aligned; arenas inside their tier"),
    (5, "each read finds the right tensor, whole, in its current version"),
    (6, "a write never meets a pending read, copy or write of the same bytes"),
    (7, "nothing is used after its berth may be reused, and the only current copy of a state is not lost"),
    (8, "no instruction waits for itself, and nothing reaches back more than one step"),
    (9, "in loop mode the edge state at the end of a step is that at its start"),
    (10, "a copy uses a working link that joins its two tiers, with a size that the link allows"),
    (11, "each engine touches only memory that it can"),
    (12, "inputs are fed once and outputs fetched once in every step"),
    (13, "each task runs once a step at most and somewhere at least, and writes only what tasks may write"),
    (14, "every body is reached, and what a transition leaves for a body is there after each of its steps"),
    (15, "facts are what the instructions say"),
    (16, "the witness of a bound gives that bound"),
    (17, "nothing is used that this format reserves"),
    (18, "the program was made for this model and this target's layout"),
    (19, "what an engine keeps for a task is made of weights, and its bytes are nobody else's"),
];

/// One thing wrong with a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the message of each variant, below, says what its fields are")]
pub enum Violation {
    Name {
        what: &'static str,
        name: String,
        problem: NameProblem,
    },
    Size {
        what: &'static str,
        name: String,
        tensor: String,
        needed: u64,
        has: u64,
    },
    SizeUnknown {
        what: &'static str,
        name: String,
    },
    Range {
        part: String,
        dim: String,
    },
    Part {
        berth: String,
        from: u64,
        to: u64,
        tensor: String,
    },
    Binding {
        run: String,
        access: usize,
        problem: BindingProblem,
    },
    Extent {
        copy: String,
        problem: ExtentProblem,
    },
    Overlap {
        first: String,
        second: String,
        arena: String,
        from: u64,
        to: u64,
        ends: Option<String>,
        written_by: String,
    },
    ArenaTooBig {
        tier: String,
        bytes: u64,
        room: u64,
    },
    OutsideArena {
        berth: String,
        end: u64,
        arena_bytes: u64,
    },
    Misaligned {
        berth: String,
        offset: u64,
        alignment: u64,
    },
    Absent {
        reader: String,
        berth: String,
        tensor: String,
    },
    Stale {
        reader: String,
        berth: String,
        tensor: String,
        found: String,
        wanted: String,
    },
    Pitched {
        reader: String,
        berth: String,
        tensor: String,
    },
    NoVersion {
        reader: String,
        tensor: String,
    },
    NoHome {
        copy: String,
        tensor: String,
    },
    Race {
        berth: String,
        first: String,
        second: String,
    },
    UsedAfterEnd {
        berth: String,
        by: String,
    },
    EndUnordered {
        berth: String,
        until: String,
        written_by: String,
    },
    StateLost {
        tensor: String,
        after: String,
    },
    Cycle {
        instructions: Vec<String>,
    },
    TooFarBack {
        instruction: String,
        after: String,
        steps: u32,
    },
    LoopEdge {
        body: String,
        berth: String,
    },
    Link {
        copy: String,
        link: String,
        problem: LinkProblem,
    },
    Engine {
        run: String,
        engine: String,
        berth: String,
        tier: String,
    },
    Feeds {
        part: String,
        tensor: String,
        found: usize,
    },
    Fetches {
        part: String,
        tensor: String,
        found: usize,
    },
    NotAnInput {
        feed: String,
        tensor: String,
    },
    NotAnOutput {
        fetch: String,
        tensor: String,
    },
    TaskTwice {
        part: String,
        task: String,
    },
    TaskNever {
        task: String,
    },
    NoBody,
    MayNotWrite {
        task: String,
        tensor: String,
    },
    CodeInTransition {
        part: String,
        instruction: String,
    },
    TransitionEdge {
        transition: String,
        berth: String,
    },
    Unreached {
        part: String,
    },
    Fact {
        fact: String,
        says: u64,
        counted: u64,
    },
    Bound {
        body: String,
        at: String,
        says: u64,
        witness: u64,
    },
    Reserved {
        instruction: String,
    },
    Format {
        says: u32,
        known: u32,
    },
    WrongTarget {
        says: String,
        has: String,
    },
    WrongModel {
        says: String,
        has: String,
    },
    ModelTensor {
        tensor: String,
        problem: ModelProblem,
    },
    ModelOp {
        op: String,
        problem: ModelProblem,
    },
    Held {
        task: String,
        problem: HeldProblem,
    },
}

/// What is wrong with what an engine keeps for a task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldProblem {
    /// The program's numerics are exact.
    Exact,
    /// A tensor that is no weight of a fixed size with a home.
    NoWeight {
        /// The tensor.
        tensor: String,
    },
    /// A weight that its home does not make.
    Home {
        /// The weight.
        tensor: String,
        /// Why not.
        problem: ExtentProblem,
    },
    /// A weight that it names twice, or that the task reads too.
    Twice {
        /// The weight.
        tensor: String,
    },
    /// An arena that its engine does not compute in.
    Tier {
        /// The arena.
        arena: String,
        /// The engine.
        engine: String,
    },
    /// It ends behind its arena.
    Outside {
        /// Where it ends.
        end: u64,
        /// Bytes of the arena.
        arena: u64,
    },
    /// It starts off the tier's alignment.
    Misaligned {
        /// Where it starts.
        offset: u64,
        /// The tier's alignment.
        alignment: u64,
    },
    /// Something else has bytes of it.
    Meets {
        /// What, for people.
        other: String,
    },
}

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameProblem {
    /// Nothing has that name.
    Unknown,
    /// Two things have that name.
    Twice,
    /// It is empty or has `~`, ` + ` or a control character.
    Illegal,
}

/// What is wrong with what a run binds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BindingProblem {
    /// It binds fewer or more places than the task accesses.
    Count {
        /// Places bound.
        bound: usize,
        /// Places wanted.
        wanted: usize,
    },
    /// A berth of another tensor.
    Tensor {
        /// The berth.
        berth: String,
    },
    /// The parts are not the whole tensor, in order.
    NotWhole,
    /// The parts do not lie one behind the other in one arena.
    NotAdjacent,
    /// The workspace is smaller than the task needs.
    Workspace {
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        has: u64,
    },
    /// Two accesses that may not share an address do.
    NoRight,
}

/// What is wrong with a copy's extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExtentProblem {
    /// The two berths hold different tensors.
    OtherTensor,
    /// The bytes are not inside the part that the source or the target holds.
    OutsidePart,
    /// Rows and row bytes do not make up the tensor.
    NotTheTensor,
    /// A filled home cannot make the tensor of its element, or only a part of it is read.
    NotTheFill,
    /// The matrix of a transposed home is not the tensor, or only a part of it is read.
    NotTheMatrix,
    /// The rows of a home that lie apart are not the tensor, or only a part of them is read.
    NotTheStrip,
    /// A pitch is smaller than a row, or the last row ends past the berth.
    Pitch,
    /// Bytes of a range of a tensor whose size depends on dims.
    NotConstant,
}

/// What is wrong with a copy's link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkProblem {
    /// It joins other tiers.
    Joins {
        /// The tiers of the copy.
        from: String,
        /// The tiers of the copy.
        to: String,
    },
    /// It is cut.
    Cut,
    /// The size is no multiple of its grain.
    Grain {
        /// Bytes of the copy.
        bytes: u64,
        /// The link's grain.
        grain: u64,
    },
}

/// In what a program differs from its model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelProblem {
    /// The model has no such thing.
    Unknown,
    /// Kind, type, size or home differ.
    Differs,
    /// No task of the body computes it.
    NotComputed {
        /// The body.
        body: String,
    },
    /// Two tasks of the body compute it.
    ComputedTwice {
        /// The body.
        body: String,
    },
    /// It reads what a later task writes.
    TooEarly {
        /// The tensor.
        tensor: String,
    },
    /// It reads what another op has written since.
    TooLate {
        /// The tensor.
        tensor: String,
    },
    /// The task does not say that it reads or writes this.
    Undeclared {
        /// The tensor.
        tensor: String,
    },
    /// The task says that it reads or writes what none of its ops does.
    Invented {
        /// The tensor.
        tensor: String,
    },
}

impl Violation {
    /// The number of the rule that is broken.
    pub fn rule(&self) -> u8 {
        use Violation::*;
        match self {
            Name { .. } => 1,
            Size { .. } | SizeUnknown { .. } | Range { .. } | Part { .. } | Binding { .. } | Extent { .. } => 2,
            Overlap { .. } => 3,
            ArenaTooBig { .. } | OutsideArena { .. } | Misaligned { .. } => 4,
            Absent { .. } | Stale { .. } | Pitched { .. } | NoVersion { .. } | NoHome { .. } => 5,
            Race { .. } => 6,
            UsedAfterEnd { .. } | EndUnordered { .. } | StateLost { .. } => 7,
            Cycle { .. } | TooFarBack { .. } => 8,
            LoopEdge { .. } => 9,
            Link { .. } => 10,
            Engine { .. } => 11,
            Feeds { .. } | Fetches { .. } | NotAnInput { .. } | NotAnOutput { .. } => 12,
            TaskTwice { .. } | TaskNever { .. } | NoBody | MayNotWrite { .. } | CodeInTransition { .. } => 13,
            TransitionEdge { .. } | Unreached { .. } => 14,
            Fact { .. } => 15,
            Bound { .. } => 16,
            Reserved { .. } | Format { .. } => 17,
            WrongTarget { .. } | WrongModel { .. } | ModelTensor { .. } | ModelOp { .. } => 18,
            Held { .. } => 19,
        }
    }

    /// The name, in the program's text, of what is at fault: where a reader should look.
    pub fn culprit(&self) -> &str {
        use Violation::*;
        match self {
            Name { name, .. } | Size { name, .. } | SizeUnknown { name, .. } => name,
            Range { dim, .. } => dim,
            Unreached { part } => part,
            Part { berth, .. } | OutsideArena { berth, .. } | Misaligned { berth, .. } => berth,
            Race { second, .. } => second,
            UsedAfterEnd { by, .. } => by,
            EndUnordered { berth, .. } | LoopEdge { berth, .. } | TransitionEdge { berth, .. } => berth,
            Binding { run, .. } | Engine { run, .. } => run,
            Extent { copy, .. } | NoHome { copy, .. } | Link { copy, .. } => copy,
            Overlap { second, .. } => second,
            ArenaTooBig { tier, .. } => tier,
            Absent { reader, .. } | Stale { reader, .. } | Pitched { reader, .. } | NoVersion { reader, .. } => reader,
            StateLost { tensor, .. } | Feeds { tensor, .. } | Fetches { tensor, .. } => tensor,
            ModelTensor { tensor, .. } => tensor,
            Cycle { instructions } => instructions.first().map_or("", String::as_str),
            TooFarBack { instruction, .. } | Reserved { instruction } => instruction,
            CodeInTransition { instruction, .. } => instruction,
            NotAnInput { feed, .. } => feed,
            NotAnOutput { fetch, .. } => fetch,
            TaskTwice { task, .. } | TaskNever { task } | MayNotWrite { task, .. } | Held { task, .. } => task,
            // `traffic of disk in step`: the link.
            Fact { fact, .. } => fact.split(" of ").nth(1).map_or("", |rest| rest.split(" in ").next().unwrap_or("")),
            Bound { at, .. } => at,
            NoBody => "bodies",
            Format { .. } => "format",
            WrongTarget { .. } => "layout",
            WrongModel { .. } => "model",
            ModelOp { op, .. } => op,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "V{:02} ", self.rule())?;
        self.sentence(f)
    }
}

impl Violation {
    fn sentence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Violation::*;
        match self {
            Name { what, name, problem } => match problem {
                NameProblem::Unknown => write!(f, "there is no {what} `{name}`"),
                NameProblem::Twice => write!(f, "two {what}s are called `{name}`"),
                NameProblem::Illegal => {
                    write!(
                        f,
                        "{name:?} cannot be the name of any {what}: it is empty or has `~`, ` + ` or a control character"
                    )
                }
            },
            Size { what, name, tensor, needed, has } => {
                write!(f, "{what} `{name}` has {has} bytes; tensor `{tensor}` needs {needed}")
            }
            SizeUnknown { what, name } => {
                write!(f, "the size of {what} `{name}` overflows or is negative somewhere in the range of dims")
            }
            Range { part, dim } => write!(f, "the range of dim `{dim}` in {part} is empty or leaves the header's"),
            Unreached { part } => write!(f, "no run reaches `{part}`"),
            Part { berth, from, to, tensor } => {
                write!(f, "berth `{berth}` holds bytes {from}..{to}, which tensor `{tensor}` does not have")
            }
            Binding { run, access, problem } => binding(f, run, *access, problem),
            Extent { copy, problem } => write!(f, "`{copy}`: {}", extent(*problem)),
            Overlap { first, second, arena, from, to, ends, written_by } => {
                write!(f, "berths `{first}` and `{second}` share bytes {from}..{to} of {arena}, and ")?;
                match ends {
                    Some(ends) => write!(f, "`{written_by}` is not ordered after `{ends}`"),
                    None => write!(f, "`{first}` is still held when `{written_by}` writes"),
                }
            }
            ArenaTooBig { tier, bytes, room } => {
                write!(f, "the arena of {tier} has {bytes} bytes; the tier has room for {room}")
            }
            OutsideArena { berth, end, arena_bytes } => {
                write!(f, "berth `{berth}` ends at {end}, past the arena's {arena_bytes} bytes")
            }
            Misaligned { berth, offset, alignment } => {
                write!(f, "berth `{berth}` starts at {offset}, which is no multiple of {alignment}")
            }
            Absent { reader, berth, tensor } => {
                write!(f, "`{reader}` reads `{tensor}` from berth `{berth}`, which does not hold all of it")
            }
            Stale { reader, berth, tensor, found, wanted } => {
                write!(f, "`{reader}` reads `{tensor}` from berth `{berth}`: it finds {found}, not {wanted}")
            }
            Pitched { reader, berth, tensor } => {
                write!(f, "`{reader}` needs `{tensor}` contiguous; berth `{berth}` holds it as rows with a pitch")
            }
            NoVersion { reader, tensor } => {
                write!(f, "`{reader}` reads `{tensor}`, which nothing has written before it")
            }
            NoHome { copy, tensor } => write!(f, "`{copy}` reads the home of `{tensor}`, which has none"),
            Race { berth, first, second } => {
                write!(
                    f,
                    "`{first}` and `{second}` use the same bytes of berth `{berth}`, one writes, and they are not ordered"
                )
            }
            UsedAfterEnd { berth, by } => write!(f, "`{by}` uses berth `{berth}` and is not ordered before its end"),
            EndUnordered { berth, until, written_by } => {
                write!(
                    f,
                    "berth `{berth}` ends with `{until}`, which is not ordered with `{written_by}` that writes it"
                )
            }
            StateLost { tensor, after } => {
                write!(f, "after {after} no berth that lives on holds the current version of state `{tensor}`")
            }
            Cycle { instructions } => write!(f, "these wait for each other: {}", instructions.join(" -> ")),
            TooFarBack { instruction, after, steps } => {
                write!(f, "`{instruction}` waits for `{after}` {steps} steps back; one is the most")
            }
            LoopEdge { body, berth } => {
                write!(f, "berth `{berth}` does not hold the same at the end of each step of body `{body}`")
            }
            Link { copy, link, problem } => match problem {
                LinkProblem::Joins { from, to } => {
                    write!(f, "`{copy}` goes from {from} to {to}, which link `{link}` does not join")
                }
                LinkProblem::Cut => write!(f, "`{copy}` uses link `{link}`, which is cut"),
                LinkProblem::Grain { bytes, grain } if bytes.is_multiple_of(*grain) => {
                    write!(
                        f,
                        "`{copy}` moves up to {bytes} bytes, not always a multiple of {grain}, as link `{link}` does"
                    )
                }
                LinkProblem::Grain { bytes, grain } => {
                    write!(f, "`{copy}` moves {bytes} bytes; link `{link}` moves multiples of {grain}")
                }
            },
            Engine { run, engine, berth, tier } => {
                write!(f, "`{run}` on engine {engine} uses berth `{berth}` in {tier}, which it cannot reach so")
            }
            Feeds { part, tensor, found } => write!(f, "{part} feeds input `{tensor}` {found} times; once is right"),
            Fetches { part, tensor, found } => {
                write!(f, "{part} fetches output `{tensor}` {found} times; once is right")
            }
            NotAnInput { feed, tensor } => write!(f, "`{feed}` feeds `{tensor}`, which is no input"),
            NotAnOutput { fetch, tensor } => write!(f, "`{fetch}` fetches `{tensor}`, which is no output"),
            TaskTwice { part, task } => write!(f, "{part} runs task `{task}` twice"),
            TaskNever { task } => write!(f, "no body runs task `{task}`"),
            NoBody => write!(f, "the program has no body: no step would do anything"),
            MayNotWrite { task, tensor } => {
                write!(f, "task `{task}` writes `{tensor}`, which is not a task's to write so")
            }
            CodeInTransition { part, instruction } => {
                write!(f, "`{instruction}` stands in transition `{part}`, where only copies may")
            }
            TransitionEdge { transition, berth } => {
                write!(
                    f,
                    "what transition `{transition}` leaves in berth `{berth}` is not there after the step that follows"
                )
            }
            Fact { fact, says, counted } => write!(f, "fact {fact} says {says}; the instructions say {counted}"),
            Bound { body, at, says, witness } => {
                write!(f, "the bound of body `{body}` at task `{at}` says {says}; its witness gives {witness}")
            }
            Reserved { instruction } => write!(f, "`{instruction}` is of a kind that format 1 reserves"),
            Format { says, known } => write!(f, "the program is of format {says}; this verifier knows {known}"),
            WrongTarget { says, has } => {
                write!(
                    f,
                    "the program was made for a machine with layout {says}; this target has {has}: compile it again"
                )
            }
            WrongModel { says, has } => {
                write!(f, "the program was made from model {says}; this one is {has}: compile it again")
            }
            ModelTensor { tensor, problem } => model(f, "tensor", tensor, problem),
            ModelOp { op, problem } => model(f, "op", op, problem),
            Held { task, problem } => {
                write!(f, "task `{task}` ")?;
                held(f, problem)
            }
        }
    }
}

fn held(f: &mut fmt::Formatter<'_>, problem: &HeldProblem) -> fmt::Result {
    match problem {
        HeldProblem::Exact => write!(f, "has weights that its engine holds, which exact numerics have not"),
        HeldProblem::NoWeight { tensor } => {
            write!(f, "holds `{tensor}`, which is no weight of a fixed size with a home")
        }
        HeldProblem::Home { tensor, problem } => write!(f, "holds `{tensor}`: {}", extent(*problem)),
        HeldProblem::Twice { tensor } => write!(f, "holds `{tensor}` twice, or reads it too"),
        HeldProblem::Tier { arena, engine } => {
            write!(f, "holds bytes in {arena}, where engine {engine} does not compute")
        }
        HeldProblem::Outside { end, arena } => {
            write!(f, "holds bytes up to {end}, past the arena's {arena} bytes")
        }
        HeldProblem::Misaligned { offset, alignment } => {
            write!(f, "holds bytes from {offset}, which is no multiple of {alignment}")
        }
        HeldProblem::Meets { other } => write!(f, "holds bytes that {other} has too"),
    }
}

fn binding(f: &mut fmt::Formatter<'_>, run: &str, access: usize, problem: &BindingProblem) -> fmt::Result {
    match problem {
        BindingProblem::Count { bound, wanted } => write!(f, "`{run}` binds {bound} places; its task wants {wanted}"),
        BindingProblem::Tensor { berth } => {
            write!(f, "`{run}` binds berth `{berth}` of another tensor to access {access}")
        }
        BindingProblem::NotWhole => write!(f, "`{run}` does not bind the whole tensor to access {access}"),
        BindingProblem::NotAdjacent => write!(f, "`{run}` binds parts that are not adjacent to access {access}"),
        BindingProblem::Workspace { needed, has } => {
            write!(f, "`{run}` has {has} bytes of workspace; its task needs {needed}")
        }
        BindingProblem::NoRight => write!(f, "`{run}`: access {access} shares bytes with another, and has no right to"),
    }
}

fn extent(problem: ExtentProblem) -> &'static str {
    match problem {
        ExtentProblem::OtherTensor => "its two berths hold different tensors",
        ExtentProblem::OutsidePart => "its bytes are not all held by both sides",
        ExtentProblem::NotTheFill => {
            "a filled home is read whole, is no matrix of a file, and its element (1, 2, 4 or 8 bytes) divides the tensor"
        }
        ExtentProblem::NotTheMatrix => "a transposed home is read whole, and its matrix must be the tensor",
        ExtentProblem::NotTheStrip => {
            "a home of rows that lie apart is read whole, its rows do not overlap, and they are the tensor's bytes, \
             the matrix's rows where it is transposed"
        }
        ExtentProblem::NotTheTensor => "its rows do not make up the tensor",
        ExtentProblem::Pitch => "a pitch is smaller than its row, or the last row ends past a berth",
        ExtentProblem::NotConstant => "a byte range needs a tensor whose size does not depend on dims",
    }
}

fn model(f: &mut fmt::Formatter<'_>, what: &str, name: &str, problem: &ModelProblem) -> fmt::Result {
    match problem {
        ModelProblem::Unknown => write!(f, "the model has no {what} `{name}`"),
        ModelProblem::Differs => write!(f, "{what} `{name}` differs from the model's in kind, type, size or home"),
        ModelProblem::NotComputed { body } => write!(f, "no task of body `{body}` computes {what} `{name}`"),
        ModelProblem::ComputedTwice { body } => write!(f, "two tasks of body `{body}` compute {what} `{name}`"),
        ModelProblem::TooEarly { tensor } => write!(f, "{what} `{name}` reads `{tensor}` before it is computed"),
        ModelProblem::TooLate { tensor } => write!(f, "{what} `{name}` reads `{tensor}` after it is written over"),
        ModelProblem::Undeclared { tensor } => {
            write!(f, "{what} `{name}` uses `{tensor}`, which its task does not say")
        }
        ModelProblem::Invented { tensor } => {
            write!(f, "{what} `{name}`: its task says that it uses `{tensor}`; no op does")
        }
    }
}
