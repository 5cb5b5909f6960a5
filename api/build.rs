//! Makes `generated.rs` and `openapi.json` of `openapi.yaml`.

#[path = "codegen/mod.rs"]
mod codegen;

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let document = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../openapi.yaml");
    let out = env::var("OUT_DIR")?;
    println!("cargo::rerun-if-changed={}", document.display());
    println!("cargo::rerun-if-changed=codegen");
    let yaml = fs::read_to_string(&document).map_err(|error| format!("{}: {error}", document.display()))?;
    let generated = codegen::generate(&yaml).map_err(|error| format!("openapi.yaml: {error}"))?;
    fs::write(Path::new(&out).join("generated.rs"), generated.rust)?;
    fs::write(Path::new(&out).join("openapi.json"), generated.json + "\n")?;
    Ok(())
}
