//! What one step costs: `overhead [--isolation X] LOWER[,LOWER...] WORKROOT COUNT [COMMAND...]`.
//!
//! Runs the command COUNT times, each on a fresh upper directory, and prints the times of a step.
//! The bare limit to compare with is clone + overlay + exec by a small C program.
#![allow(clippy::print_stdout, missing_docs)]

use std::error::Error;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use rbuild_executor::{Cancel, ExecSpec, Executor, Isolation, Rootfs};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut isolation = Isolation::Auto;
    if args.first().is_some_and(|a| a == "--isolation") {
        isolation = args[1].parse()?;
        args.drain(..2);
    }
    let [lowers, work, count, command @ ..] = &args[..] else {
        return Err("overhead [--isolation X] LOWER[,LOWER...] WORKROOT COUNT [COMMAND...]".into());
    };
    let lowers: Vec<PathBuf> = lowers.split(',').map(PathBuf::from).collect();
    let work = PathBuf::from(work);
    let command = if command.is_empty() {
        vec!["/bin/true".to_owned()]
    } else {
        command.to_vec()
    };
    let ballast: usize = std::env::var("BALLAST_MB")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    let ballast = vec![1u8; ballast << 20];

    let scratch = work.join("scratch");
    std::fs::create_dir_all(&scratch)?;
    let begin = Instant::now();
    let executor = Executor::enter(isolation, &scratch)?;
    println!(
        "{}; entered in {:.3} ms",
        executor.describe(),
        begin.elapsed().as_secs_f64() * 1e3
    );

    let cancel = Cancel::new()?;
    let mut times = Vec::new();
    let count: usize = count.parse()?;
    for n in 0..count {
        let upper = work.join(format!("u{n}"));
        let overlay_work = work.join(format!("w{n}"));
        let begin = Instant::now();
        std::fs::create_dir(&upper)?;
        std::fs::create_dir(&overlay_work)?;
        let rootfs = Rootfs::Overlay {
            lowers: lowers.clone(),
            upper,
            work: overlay_work,
        };
        let mut spec = ExecSpec::new(rootfs, command.clone());
        spec.followed = n + 1 < count;
        let out = std::io::stdout().as_fd().try_clone_to_owned()?;
        let err = std::io::stderr().as_fd().try_clone_to_owned()?;
        let exit = executor.run(&spec, out, err, &cancel)?;
        times.push(begin.elapsed());
        if !exit.success() {
            return Err(format!("{exit:?}").into());
        }
    }
    times.sort_unstable();
    let at = |percent: usize| {
        times
            .get(times.len() * percent / 100)
            .map_or(0.0, |t| t.as_secs_f64() * 1e3)
    };
    println!("median {:.3} ms  p10 {:.3}  p90 {:.3}", at(50), at(10), at(90));
    drop(ballast);
    Ok(())
}
