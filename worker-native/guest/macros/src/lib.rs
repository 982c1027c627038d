//! The attributes of `menagerie-guest`, which re-exports and documents them.

mod contract;
mod expand;

use proc_macro::TokenStream;

/// Exports the functions of an `impl` as a contract.
///
/// ```ignore
/// struct Images;
///
/// #[menagerie_guest::contract("image.decode@1")]
/// impl Images {
///     /// Bytes are views of what the caller sent.
///     fn size(png: &[u8]) -> Result<(u32, u32), png::DecodingError> { ... }
///
///     /// Any type of serde's will do; structs are maps.
///     fn resize(image: Image<'_>, scale: Option<f64>) -> ByteBuf { ... }
/// }
/// ```
///
/// Every function of the `impl` is exported, under its own name, which has to
/// be snake_case. It takes no `self`. Parameters are of any type that is
/// `Deserialize`, `&str` and `&[u8]` among them; a call with another number or
/// other kinds of arguments fails as `BadArguments`, naming the argument,
/// before the function runs. The result is anything that is `Serialize`, or a
/// `Result` of it with an error that is `Display`: callers see the error's type
/// and message, and what is beneath it. A panic is an error of the type
/// `panic`.
///
/// Functions marked [`macro@on_load`] and [`macro@on_unload`] are hooks.
///
/// A library with several contracts marks each with
/// `#[contract("name@1", part)]` and says `menagerie_guest::bundle!(A, B);`
/// once; without `part` the attribute says that itself.
#[proc_macro_attribute]
pub fn contract(attribute: TokenStream, item: TokenStream) -> TokenStream {
    contract::contract(attribute.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Marks the function of a [`macro@contract`]'s `impl` that runs before the
/// first call: `fn restore(context: Context<'_>)`. The context's `state` is
/// what the previous generation's `on_unload` returned. If it fails, so does
/// the load.
#[proc_macro_attribute]
pub fn on_load(_attribute: TokenStream, item: TokenStream) -> TokenStream {
    misplaced("on_load", item)
}

/// Marks the function of a [`macro@contract`]'s `impl` that runs after the last
/// call. Threads that the library started must have ended when it returns. At
/// a reload its result is handed to the next generation's `on_load`.
#[proc_macro_attribute]
pub fn on_unload(_attribute: TokenStream, item: TokenStream) -> TokenStream {
    misplaced("on_unload", item)
}

/// `#[contract]` takes the hooks' attributes off; one that is expanded stands
/// elsewhere.
fn misplaced(name: &str, item: TokenStream) -> TokenStream {
    let message = format!(
        "#[{name}] marks a function of an impl that is marked #[menagerie_guest::contract]"
    );
    let mut out = TokenStream::from(
        syn::Error::new(proc_macro2::Span::call_site(), message).into_compile_error(),
    );
    out.extend(item);
    out
}
