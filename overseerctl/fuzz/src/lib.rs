//! The modules under test, compiled by themselves: the fuzz targets need none of what the rest of overseerctl pulls in,
//! and instrumenting all of that would take minutes.

pub mod duration;
pub mod json;
pub mod quote;
pub mod template;
pub mod time;
pub mod utf8;
