//! The JSON Schema of a plugin's configuration: a file beside its Cargo.toml, made from the Rust type, carried in the
//! module.

use schemars::JsonSchema;

/// The custom section of the module that holds it.
pub const SECTION: &str = "sluice:config-schema";

/// The schema of `Config` as it stands in `schema.json`.
pub fn of<Config: JsonSchema>() -> String {
    let schema = schemars::schema_for!(Config);
    // A schema is plain JSON: to print it can't fail.
    format!("{}\n", serde_json::to_string_pretty(&schema).unwrap_or_default())
}

/// Holds `schema.json` against the type; with `SLUICE_UPDATE_SCHEMA=1` in the environment it is written instead.
///
/// [`export!`](crate::export) makes a test of this.
#[cfg(not(target_arch = "wasm32"))]
pub fn check<Config: JsonSchema>(path: &str) -> Result<(), String> {
    let wanted = of::<Config>();
    if std::env::var_os("SLUICE_UPDATE_SCHEMA").is_some() {
        return std::fs::write(path, wanted).map_err(|error| format!("{path}: {error}"));
    }
    match std::fs::read_to_string(path) {
        Ok(found) if found == wanted => Ok(()),
        Ok(_) => Err(format!(
            "{path} is not the schema of the configuration any more: run the tests with SLUICE_UPDATE_SCHEMA=1"
        )),
        Err(error) => Err(format!("{path}: {error}: run the tests with SLUICE_UPDATE_SCHEMA=1")),
    }
}
