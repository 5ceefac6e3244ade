mod commands;
mod running;
mod shares;
mod times;
mod world;
