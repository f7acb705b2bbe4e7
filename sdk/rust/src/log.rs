//! Lines in the gateway's log, under the plugin's name: at most 100 a second, 4 KiB each.

use crate::backend::logging;

pub fn error(message: &str) {
    logging::error(message);
}

pub fn warn(message: &str) {
    logging::warn(message);
}

pub fn info(message: &str) {
    logging::info(message);
}

pub fn debug(message: &str) {
    logging::debug(message);
}
