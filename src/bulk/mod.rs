//! Many messages by one request: durable jobs that feed the queue row by row and keep what became of each.

pub mod rows;
