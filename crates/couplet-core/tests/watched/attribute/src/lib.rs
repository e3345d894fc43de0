//! `#[test]` for `couplet-watched`: the standard one, with a call of `watch` at the start of the
//! function.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// The standard attribute, with a watchdog for the body.
#[proc_macro_attribute]
pub fn test(_: TokenStream, function: TokenStream) -> TokenStream {
    let mut tokens: Vec<TokenTree> = function.into_iter().collect();
    let name = tokens.iter().skip_while(|token| token.to_string() != "fn").nth(1);
    let name = name.map(ToString::to_string).unwrap_or_default();
    let watched =
        "let _watched = ::couplet_watched::watch(::core::concat!(::core::module_path!(), ";
    let watched = format!("{watched}\"::\", ::core::stringify!({name})));");
    let mut body: TokenStream = watched.parse().expect("a statement");
    match tokens.pop() {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            body.extend(group.stream());
            let mut braced = Group::new(Delimiter::Brace, body);
            braced.set_span(group.span());
            tokens.push(TokenTree::Group(braced));
        }
        // The compiler reports the problem.
        other => tokens.extend(other),
    }
    let mut test: TokenStream = "#[::core::prelude::v1::test]".parse().expect("an attribute");
    test.extend(tokens);
    test
}
