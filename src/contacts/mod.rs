//! Who the node knows: the address book that its API fills, and the people who must not be written to unasked.

mod suppression;

pub use suppression::{Why, release, suppress};
