//! `#[test]` for `couplet-testkit`: the standard one, whose function runs its body by
//! `couplet_testkit::run`.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// The standard attribute, with a watchdog for the body.
#[proc_macro_attribute]
pub fn test(_: TokenStream, function: TokenStream) -> TokenStream {
    let tokens: Vec<TokenTree> = function.into_iter().collect();
    let at = tokens.iter().position(|token| token.to_string() == "fn").unwrap_or(tokens.len());
    let (before, function) = tokens.split_at(at);
    let [keyword, name, arguments, ..] = function else {
        // The compiler reports the problem.
        return tokens.into_iter().collect();
    };
    let run = format!(
        "::couplet_testkit::run(::core::concat!(::core::module_path!(), \"::\", \
         ::core::stringify!({name})), {program}, {name})",
        program = program_under_test(),
    );
    let mut body: TokenStream = function.iter().cloned().collect();
    body.extend(run.parse::<TokenStream>().expect("an expression"));
    let mut braced = Group::new(Delimiter::Brace, body);
    braced.set_span(function.last().unwrap_or(name).span());
    let mut test: TokenStream = "#[::core::prelude::v1::test]".parse().expect("an attribute");
    test.extend(before.iter().cloned());
    test.extend([keyword.clone(), name.clone(), arguments.clone(), TokenTree::Group(braced)]);
    test
}

/// The path of the package's program, which cargo names to the compiler of integration tests.
fn program_under_test() -> String {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let names: Vec<String> = names.filter(|name| name.starts_with("CARGO_BIN_EXE_")).collect();
    match &names[..] {
        [name] => format!("::core::option_env!(\"{name}\")"),
        _ => "::core::option::Option::None".to_owned(),
    }
}
