mod attempts;
mod audit;
pub(crate) mod bench;
mod items;
mod model;
mod scenarios;
mod storage;
mod world;
