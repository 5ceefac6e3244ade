mod attempts;
mod audit;
pub(crate) mod bench;
mod model;
mod scenarios;
mod storage;
mod world;
