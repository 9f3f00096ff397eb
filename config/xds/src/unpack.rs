//! Messages taken apart field by field, so that none is passed over by accident: a field that a new version of Envoy's API
//! brings breaks the build until somebody has decided about it.
//!
//! `docs/xds.md` is written from these lists; a test compares.

/// Takes a message apart: fields that are read, fields that may be passed over (and why, in a comment beside them), and
/// fields that are refused when they are set.
macro_rules! unpack {
    ($at:expr, $message:expr => $type:path {
        take: [$($take:ident),* $(,)?],
        ignore: [$($ignore:ident),* $(,)?],
        refuse: [$($refuse:ident),* $(,)?] $(,)?
    }) => {
        let $type { $($take,)* $($ignore: _,)* $($refuse,)* } = $message;
        $( $at.unset(stringify!($refuse), $refuse); )*
    };
}
