//! Generators: machines, lifetimes and models from a row of decisions, tiny and odd, those that cannot be planned as well.

mod lifetimes;
mod machine;
mod model;

pub use lifetimes::{keep, lifetimes};
pub use machine::machine;
pub use model::model;
