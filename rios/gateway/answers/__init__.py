"""What routes answer with, as the OpenAPI document says it: one file for each area. Declared there, and not applied to
answers as they are sent, which would cost every request; tests hold real answers to it."""
