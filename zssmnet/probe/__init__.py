"""Do pre-trained weights help? Fine-tuning from them and from scratch on the same few labelled cases, compared."""
