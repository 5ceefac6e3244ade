//! Tests of the composed node without its HTTP front end.

mod accounts;
mod fixture;
