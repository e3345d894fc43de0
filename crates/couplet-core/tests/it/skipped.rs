//! A program that a machine lacks is a visible skip for a developer, and a failure in CI.

use crate::apart;
use crate::needed;

#[test]
fn a_missing_program_is_a_visible_skip_and_a_failure_in_ci() {
    if apart::told().is_some() {
        assert!(!needed::has("a-program-of-nobody"));
        return;
    }
    let this = "skipped::a_missing_program_is_a_visible_skip_and_a_failure_in_ci";
    let mut again = apart::again(this, "");
    // Run as by `cargo test`, which captures the output of a passing test.
    let args: Vec<_> = again.get_args().filter(|word| *word != "--nocapture").collect();
    let mut captured = std::process::Command::new(again.get_program());
    captured.args(args).envs(again.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let skips = captured.env_remove("CI").output().expect("it starts");
    let said = String::from_utf8_lossy(&skips.stderr);
    assert!(skips.status.success(), "{said}");
    assert!(said.contains("skipped: there is no a-program-of-nobody here"), "{said}");
    let fails = again.env("CI", "true").output().expect("it starts");
    let said = String::from_utf8_lossy(&fails.stderr);
    assert!(!fails.status.success() && said.contains("CI lacks a-program-of-nobody"), "{said}");
}
