//! What the Plugin names in `capabilities.secrets`. `configure` can't read them: a secret that is rotated is read anew.
//!
//! ```
//! use sluice_plugin::{secrets, testing::Services};
//!
//! let services = Services::new().secret("token", "hunter2");
//! assert_eq!(secrets::get_str("token").as_deref(), Some("hunter2"));
//! services.rotate("token", "hunter3");
//! assert_eq!(secrets::get("token").as_deref(), Some(&b"hunter3"[..]));
//! assert_eq!(secrets::get("other"), None);
//! ```

use crate::backend::secrets;

/// The value as it is now. None: no such name is given to the plugin, or the Secret, or its key, is not there.
pub fn get(name: &str) -> Option<Vec<u8>> {
    secrets::get(name)
}

/// The value, where it is UTF-8.
pub fn get_str(name: &str) -> Option<String> {
    String::from_utf8(get(name)?).ok()
}
