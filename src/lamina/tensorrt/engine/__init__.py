"""Engines at run time: deserializing, contexts, refitting, inspecting."""
