//! A data pipeline whose steps are plugins. Columns go through it as bytes: a
//! step sees a view of shared memory, and nothing is parsed or printed between
//! steps.
//!
//!     cargo run --release --example pipeline

#![allow(clippy::print_stdout, reason = "an example")]

use std::error::Error;
use std::time::Instant;

use menagerie_supervisor::{ByteBuf, Bytes, Supervisor};

/// Doubles every value: Python's `array` reads the view as it is.
const SCALE: &str = r#"
import array
import menagerie

@menagerie.export("step@1")
def run(column):
    values = array.array("d")
    values.frombytes(column)
    return array.array("d", (2 * value for value in values)).tobytes()
"#;

/// Keeps what is above the mean. Large bytes are a view that is read where it
/// stands.
const FILTER: &str = r#"
export default {
  "step@1": {
    run(column) {
      const values = new Float64Array(column.slice().buffer);
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      return new Uint8Array(values.filter((value) => value > mean).buffer);
    },
  },
};
"#;

const ROWS: u32 = 100_000;

fn to_bytes(column: &[f64]) -> Vec<u8> {
    column.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn from_bytes(bytes: &[u8]) -> Vec<f64> {
    bytes
        .chunks_exact(8)
        .filter_map(|chunk| Some(f64::from_ne_bytes(chunk.try_into().ok()?)))
        .collect()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let supervisor = Supervisor::builder().start()?;
    let steps = [("scale", "python", SCALE), ("filter", "js", FILTER)];
    for (name, loader, code) in steps {
        let manifest = format!("name = \"{name}\"\nloader = \"{loader}\"\nprovides = [\"step@1\"]");
        supervisor.load_code(&manifest, code).await?;
    }
    let column: Vec<f64> = (0..ROWS).map(f64::from).collect();
    let mut bytes = to_bytes(&column);
    for (name, _, _) in steps {
        let step = supervisor.contract(&format!("{name}/step@1"))?;
        let started = Instant::now();
        let result: ByteBuf = step.call("run", (Bytes::new(&bytes),)).await?;
        println!("{name}: {} to {} bytes in {:?}", bytes.len(), result.len(), started.elapsed());
        bytes = result.into_vec();
    }
    let column = from_bytes(&bytes);
    let first = column.first().copied().unwrap_or_default();
    println!("{} of {ROWS} values are left; the first is {first}", column.len());
    assert_eq!((column.len(), first), (50_000, 100_000.0));
    supervisor.shutdown().await;
    Ok(())
}
