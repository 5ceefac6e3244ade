//! Tests of the queue: storage functions against a model, and the actor on a real store.

mod attempts;
mod audit;
mod bulk_rows;
mod clock_steps;
pub(crate) mod fixture;
mod lease_next;
mod model;
mod model_bulk_rows;
mod reference_model;
mod scenarios;
mod storage;
