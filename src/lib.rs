//! The Outrigger proxy. Modules in layer order, lowest first; a module imports only lower ones.
