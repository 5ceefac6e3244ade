mod attempts;
mod audit;
pub(crate) mod bench;
mod items;
mod model;
mod rows;
mod scenarios;
mod storage;
mod world;
