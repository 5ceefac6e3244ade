mod commands;
mod fixture;
mod lifecycle;
mod schedule;
mod senders;
