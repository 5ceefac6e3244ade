//! Tests of the supervisor and the actors of linked devices, with a real store and scripted clients instead of a
//! network.

mod fixture;
mod messages;
mod pairing;
mod planner;
mod planner_model;
mod planner_queue;
mod planner_world;
mod rate_limit;
