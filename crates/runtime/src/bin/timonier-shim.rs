//! The shim alone, for tests and for a package that wants it as small as it can be: `timonier-shim shim run DIRECTORY`.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(2).collect();
    ExitCode::from(runtime::shim::main(&arguments))
}
