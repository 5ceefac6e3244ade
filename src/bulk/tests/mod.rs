//! Tests of bulk jobs on a real queue and real files, with simulated instances.

mod commands;
mod fixture;
mod lifecycle;
mod planner_model;
mod schedule;
mod senders;
